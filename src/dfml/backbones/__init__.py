"""Networks: the papers' backbones, registered with timm, and the one place where a network is built from its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dfml.backbones import conv4, resnet
from dfml.errors import UsageError

BACKBONES = (*conv4.__all__, *resnet.__all__)

# Arguments of timm's factory that would read files, reach the network, or replace the vetted configuration.
_FORBIDDEN = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "checkpoint_path"})


def create_backbone(architecture: str, num_classes: int, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """Build an untrained network by name.

    Args:
        architecture: One of `BACKBONES` or any name in timm's registry.
        num_classes: Outputs of its head.
        seed: Of the initial weights. Torch's global generator is left as it was; None draws from it.
        arguments: Of the architecture, such as `img_size`.

    Raises:
        UsageError: If the name is unknown, or the architecture does not take the arguments.
    """
    if not timm.is_model(architecture):
        raise UsageError(
            f"unknown architecture {architecture!r}: expected one of {', '.join(BACKBONES)}, "
            "or a name in timm's registry"
        )
    forbidden = sorted(_FORBIDDEN & arguments.keys())
    if forbidden:
        raise UsageError(f"architecture {architecture!r}: the arguments {', '.join(forbidden)} are not accepted here")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=num_classes, **arguments)
        except Exception as error:  # whatever third-party constructors raise for arguments that they do not expect
            reason = " ".join(str(error).split())
            raise UsageError(f"architecture {architecture!r} cannot be built with {arguments}: {reason}") from error
    return network


def size_arguments(architecture: str, size: int) -> dict[str, Any]:
    """The arguments that make an architecture take images of `size` x `size` pixels."""
    known = timm.models.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    fixed = architecture in BACKBONES or bool(known and known.fixed_input_size)
    return {"img_size": size} if fixed else {}


@contextmanager
def sized(architecture: str, size: int) -> Iterator[None]:
    """Within the context, a network is shown its first images.

    Raises:
        UsageError: In the place of whatever a network raises that is not made for images of this size.
    """
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"architecture {architecture!r} cannot learn from images of {size} x {size} pixels: {reason}"
        ) from error


def head_inputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the head of a network in timm's manner sees: images x features."""
    features: Tensor = network.forward_head(network.forward_features(inputs), pre_logits=True)  # type: ignore[operator]
    return features
