"""Networks written as lists of layers of `torch.nn`, from a fixed set; nothing in a list is executed.

    - conv1: Conv2d(3, 6, 5)
    - ReLU
    - MaxPool2d(2)
    - Flatten
    - classifier:
      - Linear(1176, 84)
      - ReLU
      - Linear(84, 10)

An entry is a layer, a named layer, or a named list. An entry without a name has its position in its list as its name,
as in `nn.Sequential`: the names of the tensors in the state dict follow from the list.
"""

from __future__ import annotations

import ast
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dfml.errors import ConfigError

LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
        *(nn.LocalResponseNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Softmax, nn.LogSoftmax, nn.Identity),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Flatten),
        *(nn.Dropout, nn.Dropout2d),
    )
}
"""The layers that a list may have, by the name of their class in `torch.nn`."""

_MAX_LAYERS, _MAX_DEPTH, _MAX_TEXT = 2000, 8, 200
_MAX_NUMBER = 2**24  # of a layer's argument, such as the number of inputs of a linear layer
_MAX_WINDOW = 512  # kernel sizes, strides, paddings and output sizes: they decide how much memory an image takes
_MAX_PARAMETERS = 2**31
_CHANNEL_ARGUMENTS = {"Conv2d": 2, "Linear": 2}  # leading arguments that count channels, not pixels
_PIXELS = frozenset({"Conv2d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "ZeroPad2d"})


def build_layers(layers: Sequence[Any], *, device: str = "cpu") -> nn.Sequential:
    """Build the network that a list of layers describes.

    Args:
        layers: Entries as in the module's example; as `yaml.safe_load` returns them.
        device: Device of the weights; `meta`: the weights have shapes but no memory.

    Raises:
        ConfigError: If an entry has another form, a layer is not in `LAYERS`, an argument is wrong or out of bounds, or
            the list is too long or too deep.
    """
    count = [0]
    with torch.device("meta"):
        network = _sequence(layers, "architecture", 0, count)
    values = sum(parameter.numel() for parameter in network.parameters())
    if values > _MAX_PARAMETERS:
        raise ConfigError(f"architecture: expected at most {_MAX_PARAMETERS} parameters, found {values}")
    if device != "meta":
        with torch.device(device):
            network = _sequence(layers, "architecture", 0, [0])
    return network


def _sequence(layers: Any, where: str, depth: int, count: list[int]) -> nn.Sequential:
    if not isinstance(layers, list | tuple) or not layers or depth > _MAX_DEPTH:
        raise ConfigError(
            f"{where}: expected a list of layers, at most {_MAX_DEPTH} lists deep, found {_shown(layers)}"
        )
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for position, entry in enumerate(layers):
        count[0] += 1
        if count[0] > _MAX_LAYERS:
            raise ConfigError(f"{where}: expected at most {_MAX_LAYERS} layers")
        name, spec = str(position), entry
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise ConfigError(f"{where}: expected NAME: LAYER, found {_shown(entry)}")
            ((key, spec),) = entry.items()
            name = str(key)
        inner = f"{where}.{name}"
        if not name or "." in name or len(name) > _MAX_TEXT or hasattr(nn.Sequential, name) or name in modules:
            raise ConfigError(f"{inner}: expected a name that is free, not empty, and without a dot")
        modules[name] = _sequence(spec, inner, depth + 1, count) if isinstance(spec, list) else _layer(spec, inner)
    return nn.Sequential(modules)


def _layer(spec: Any, where: str) -> nn.Module:
    """One layer, written as a call with literal arguments: `Conv2d(3, 6, kernel_size=5)` or `ReLU`."""
    name, positional, named = _parse(spec, where)
    kind = LAYERS.get(name)
    if kind is None:
        raise ConfigError(f"{where}: expected one of {', '.join(LAYERS)}, found {_shown(spec)}")
    channels = _CHANNEL_ARGUMENTS.get(name, 0)
    windows = [
        *positional[channels:],
        *(v for k, v in named.items() if not k.startswith(("in_", "out_")) and k != "groups"),
    ]
    for value in (*positional, *named.values()):
        _check(value, where, _MAX_NUMBER)
    for value in windows if name in _PIXELS else ():
        _check(value, where, _MAX_WINDOW)
    try:
        return kind(*positional, **named)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: {_shown(spec)} is no layer of torch.nn ({reason})") from error


def _parse(spec: Any, where: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments of a call. The text is parsed, never evaluated."""
    try:
        if not isinstance(spec, str) or len(spec) > _MAX_TEXT:
            raise ValueError
        node = ast.parse(spec.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return node.func.id, [ast.literal_eval(each) for each in node.args], named
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ConfigError(f"{where}: expected a layer such as Conv2d(3, 6, 5) or ReLU, found {_shown(spec)}") from error


def _check(value: Any, where: str, limit: int) -> None:
    """Refuse arguments that are no plain values, or so large that a network or its images would not fit anywhere."""
    for each in value if isinstance(value, tuple | list) else (value,):
        number = isinstance(each, int | float) and not isinstance(each, bool)
        if number and (not math.isfinite(each) or abs(each) > limit):
            raise ConfigError(f"{where}: expected numbers of at most {limit}, found {each}")
        if not number and each is not None and not isinstance(each, bool | str):
            raise ConfigError(f"{where}: expected numbers, True, False or texts as arguments, found {_shown(each)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
