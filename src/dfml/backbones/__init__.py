"""Backbones of the few-shot literature, registered with timm, and the function that builds any network by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from dfml.backbones import conv4, resnet
from dfml.errors import UsageError

BACKBONES = (*conv4.__all__, *resnet.__all__)

# Arguments of timm's factory that would read files, open connections, or replace the vetted configuration.
_FORBIDDEN = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "checkpoint_path"})


def create_backbone(architecture: str, num_classes: int, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """Build an untrained network by name.

    Args:
        architecture: One of `BACKBONES` or any name in timm's registry.
        num_classes: Number of outputs of its head.
        seed: Seed of the initial weights; torch's global generator is left as it was. None (the default) draws the
            weights from the global generator.
        arguments: Arguments of the architecture, such as `img_size`.

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
        except Exception as error:  # third-party constructors raise anything for arguments that they do not expect
            reason = " ".join(str(error).split())
            raise UsageError(f"architecture {architecture!r} cannot be built with {arguments}: {reason}") from error
    return network


def size_arguments(architecture: str, size: int) -> dict[str, Any]:
    """Arguments with which an architecture takes images of `size` x `size` pixels; empty if it takes any size."""
    known = timm.models.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    fixed = architecture in BACKBONES or bool(known and known.fixed_input_size)
    return {"img_size": size} if fixed else {}


def require_whole_patches(network: nn.Module, architecture: str, size: int) -> None:
    """Check that the patches of a vision transformer cover images of `size` x `size` pixels.

    A network of another size is built without an error, and leaves out the pixels that fill no patch.

    Raises:
        UsageError: If `size` is no multiple of the side length of the patches.
    """
    for layer in network.modules():
        if isinstance(layer, PatchEmbed) and not layer.dynamic_img_pad:
            side = max(layer.patch_size)
            if size % side:
                raise UsageError(
                    f"architecture {architecture!r} cannot learn from images of {size} x {size} pixels: its patches "
                    f"have {side} x {side}; choose a multiple of {side}, such as {-(-size // side) * side}"
                )


@contextmanager
def sized(architecture: str, size: int) -> Iterator[None]:
    """Context for a network's first forward pass on images of `size` x `size` pixels.

    Raises:
        UsageError: If the pass fails because the network cannot take images of this size.
    """
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"architecture {architecture!r} cannot learn from images of {size} x {size} pixels: {reason}"
        ) from error


def head_inputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs of the classification head, one row per image.

    A network without timm's `forward_features` and `forward_head` has its last linear layer as its head.

    Raises:
        UsageError: If it has neither.
    """
    if hasattr(network, "forward_head"):
        features: Tensor = network.forward_head(network.forward_features(inputs), pre_logits=True)  # type: ignore[operator]
        return features
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"{type(network).__name__} has no linear layer, whose inputs would be its features")
    seen: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        network(inputs)
    finally:
        hook.remove()
    return seen[-1].flatten(1)
