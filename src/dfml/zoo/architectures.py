"""Builds the network that a manifest names: of torchvision, of timm, a ResNet for CIFAR, or a list of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dfml.backbones import create_backbone
from dfml.backbones.cifar_resnet import CifarResNet
from dfml.errors import ConfigError, DfmlError
from dfml.zoo.layer_lists import build_layers

FAMILIES = ("torchvision", "timm", "cifar_resnet")
"""Possible values of FAMILY in an architecture `FAMILY:NAME`."""

REPLACE = "replace"
"""Argument that maps names of modules to their replacement: one layer, or a list of layers."""

_RESERVED = frozenset({"weights", "weights_backbone", "num_classes", "progress", "seed", "architecture", "pretrained"})


def build_architecture(
    architecture: str | Sequence[Any], outputs: int, arguments: Mapping[str, Any] | None = None, *, device: str = "cpu"
) -> nn.Module:
    """Build an untrained network.

    Args:
        architecture: `torchvision:NAME`, `timm:NAME` or a name of timm alone, `cifar_resnet:DEPTH`, or a list of layers
            (`dfml.zoo.layer_lists`), whose last layer determines the outputs.
        outputs: Number of outputs; not used for a list of layers.
        arguments: Arguments of the architecture, and `replace`, modules to be replaced by others, such as
            `{"fc": ["Linear(512, 64)", "ReLU", "Linear(64, 5)"], "maxpool": "Identity"}`.
        device: Device of the weights; `meta`: the weights have shapes but no memory.

    Raises:
        ConfigError: If the name is unknown, the architecture does not take the arguments, or a module that is to be
            replaced does not exist.
    """
    given = dict(arguments or {})
    replacements = given.pop(REPLACE, {})
    if not isinstance(replacements, Mapping):
        raise ConfigError(f"`{REPLACE}`: expected a mapping from the names of modules to layers")
    forbidden = sorted(_RESERVED & given.keys())
    if forbidden:
        raise ConfigError(f"the arguments {', '.join(forbidden)} are not accepted here")
    if not isinstance(architecture, str):
        if given:
            raise ConfigError(f"a list of layers takes no arguments, found {', '.join(map(str, given))}")
        network: nn.Module = build_layers(architecture, device=device)
    else:
        network = _by_name(architecture, outputs, given, device)
    for name, layers in replacements.items():
        _replace(network, str(name), layers, device)
    return network


def _by_name(architecture: str, outputs: int, arguments: dict[str, Any], device: str) -> nn.Module:
    family, colon, name = architecture.partition(":")
    if not colon:
        family, name = "timm", architecture
    try:
        with torch.device(device):
            if family == "timm":
                return create_backbone(name, outputs, **arguments)
            if family == "torchvision":
                return _torchvision(name, outputs, arguments)
            if family == "cifar_resnet":
                return CifarResNet(int(name) if name.isdecimal() else 0, outputs, **arguments)
    except DfmlError as error:
        raise ConfigError(str(error)) from error
    except Exception as error:  # third-party constructors raise anything for arguments that they do not expect
        reason = " ".join(str(error).split())
        raise ConfigError(f"architecture {architecture!r} cannot be built with {arguments}: {reason}") from error
    raise ConfigError(f"architecture {architecture!r}: expected FAMILY:NAME, with {', '.join(FAMILIES)} as families")


def _torchvision(name: str, outputs: int, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ConfigError(f"torchvision has no classifier {name!r}")
    if name in ("inception_v3", "googlenet"):  # their default initialisation takes a minute
        arguments = {"init_weights": False, **arguments}
    network: nn.Module
    try:
        network = models.get_model(name, weights=None, num_classes=outputs, **arguments)
    except NotImplementedError:  # the constructor computes with the initial weights, which have no values on `meta`
        with torch.device("cpu"):
            network = models.get_model(name, weights=None, num_classes=outputs, **arguments)
    return network


def _replace(network: nn.Module, name: str, layers: Any, device: str) -> None:
    parent, _, last = name.rpartition(".")
    try:
        owner = network.get_submodule(parent)
        owner.get_submodule(last)
    except AttributeError as error:
        raise ConfigError(f"`{REPLACE}`: the architecture has no module {name!r}") from error
    if isinstance(layers, str):
        setattr(owner, last, build_layers([layers], device=device)[0])
    else:
        setattr(owner, last, build_layers(layers, device=device))
