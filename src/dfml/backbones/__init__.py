"""Backbones of the few-shot literature, and the function that builds any network by name, dfml's own or timm's.

timm, which imports torchvision and takes seconds, is imported when the first of its networks is in use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dfml.backbones import conv4, resnet
from dfml.errors import UsageError

_OWN = {name: getattr(module, name) for module in (conv4, resnet) for name in module.__all__}

BACKBONES = tuple(_OWN)

# Arguments of timm's factory that would read files, open connections, or replace the vetted configuration.
_FORBIDDEN = frozenset({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "checkpoint_path"})


@cache
def register_with_timm() -> ModuleType:
    """Make `timm.create_model` know dfml's backbones, which happens once; return timm."""
    import timm
    from timm.models import register_model

    for build in _OWN.values():
        register_model(build)
    module: ModuleType = timm
    return module


if "timm" in sys.modules:  # its user may build networks by timm's own functions
    register_with_timm()


def is_architecture(name: str) -> bool:
    """Whether `create_backbone` knows the name."""
    return name in _OWN or bool(register_with_timm().is_model(name))


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
    if not is_architecture(architecture):
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
            network = _build(architecture, {"num_classes": num_classes, **arguments})
        except Exception as error:  # third-party constructors raise anything for arguments that they do not expect
            reason = " ".join(str(error).split())
            raise UsageError(f"architecture {architecture!r} cannot be built with {arguments}: {reason}") from error
    return network


def _build(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    if architecture in _OWN:
        # As timm's factory: an argument of None is left out.
        own: nn.Module = _OWN[architecture](**{name: value for name, value in arguments.items() if value is not None})
        return own
    network: nn.Module = register_with_timm().create_model(architecture, pretrained=False, **arguments)
    return network


def size_arguments(architecture: str, size: int) -> dict[str, Any]:
    """Arguments with which an architecture takes images of `size` x `size` pixels; empty if it takes any size."""
    if architecture in _OWN:
        return {"img_size": size}
    timm = register_with_timm()
    known = timm.models.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    return {"img_size": size} if known and known.fixed_input_size else {}


def require_whole_patches(network: nn.Module, architecture: str, size: int) -> None:
    """Check that the patches of a vision transformer cover images of `size` x `size` pixels.

    A network of another size is built without an error, and leaves out the pixels that fill no patch.

    Raises:
        UsageError: If `size` is no multiple of the side length of the patches.
    """
    if architecture in _OWN:
        return
    from timm.layers.patch_embed import PatchEmbed

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
