"""The layers of a plain sequential network, as far as the names and shapes of its tensors tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

FLAT = ("Linear", "BatchNorm1d")
"""Kinds of layers whose input is a vector."""

_MAX_LAYERS = 200
_TRACKED = "num_batches_tracked"
_BRANCHES = re.compile(r"(^|[._])(shortcut|downsample|skip|residual|branch\d*|attn|attention)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A layer that has tensors.

    Attributes:
        path: Parts of its name.
        kind: `Conv2d`, `Linear`, `BatchNorm1d` or `BatchNorm2d`.
        inputs: Number of its input channels.
        outputs: Number of its output channels.
        kernel: Height and width of a convolution's kernel.
        bias: Whether it has a bias.
        groups: Groups of a convolution's channels.
        gap: Number of entries without tensors before it in its numbered list; None where any number may be.
    """

    path: tuple[str, ...]
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    bias: bool = True
    groups: int = 1
    gap: int | None = None

    @property
    def is_norm(self) -> bool:
        """Whether it is batch-norm."""
        return self.kind.startswith("BatchNorm")


def read_layers(state_dict: Mapping[str, Tensor]) -> list[Layer]:
    """The layers of a sequence of convolutions, linear layers and batch-norm.

    Args:
        state_dict: Tensors by name, in the order in which they were made.

    Returns:
        The layers in order; empty if one is of another kind, does not follow from the one before it, or has a name
        that stands for a branch, such as `shortcut`.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        module, _, part = name.rpartition(".")
        tensors.setdefault(module, {})[part] = tensor
    layers: list[Layer] = []
    if len(tensors) > _MAX_LAYERS or any(_BRANCHES.search(module) for module in tensors):
        return []
    for module, parts in _in_order(tensors):
        layer = _read_layer(module, parts, layers[-1] if layers else None)
        if layer is None:
            return []
        layers.append(layer)
    return layers if layers and not layers[-1].is_norm else []


def _in_order(tensors: dict[str, dict[str, Tensor]]) -> list[tuple[str, dict[str, Tensor]]]:
    """Modules in the order of the file; in that of their numbers where the file sorts names, as safetensors does."""
    names = list(tensors)
    if names == sorted(names):
        names.sort(key=_numbered)
        first = {name: name.split(".")[0] for name in names}
        ranks = _ranks({part: [tensors[n] for n in names if first[n] == part] for part in first.values()})
        if not any(part.isdecimal() for part in ranks):
            names.sort(key=lambda name: ranks[first[name]])
    return [(name, tensors[name]) for name in names]


def _read_layer(module: str, parts: Mapping[str, Tensor], before: Layer | None) -> Layer | None:
    path, weight = tuple(module.split(".")), parts.get("weight")
    gap = _gap(path, before)
    allowed = {"weight", "bias"} | ({"running_mean", "running_var", _TRACKED} if "running_var" in parts else set())
    if not module or weight is None or not set(parts) <= allowed or (gap is not None and gap < 0):
        return None
    if "running_var" in parts:
        known = before is not None and before.outputs == len(weight) and weight.ndim == 1
        kind = "BatchNorm1d" if known and before.kind in ("Linear", "BatchNorm1d") else "BatchNorm2d"  # type: ignore[union-attr]
        return Layer(path, kind, len(weight), len(weight), gap=gap) if known else None
    if weight.ndim == 4:
        inputs = before.outputs if before else weight.shape[1]
        groups = inputs if weight.shape[1] == 1 else 1  # all channels by themselves, or all together
        if inputs != groups * weight.shape[1] or (before and before.kind in FLAT):
            return None
        kernel = (weight.shape[2], weight.shape[3])
        return Layer(path, "Conv2d", inputs, len(weight), kernel, "bias" in parts, groups, gap)
    if weight.ndim == 2:
        inputs = weight.shape[1]
        follows = before is None or inputs % before.outputs == 0
        return Layer(path, "Linear", inputs, len(weight), bias="bias" in parts, gap=gap) if follows else None
    return None


def _gap(path: tuple[str, ...], before: Layer | None) -> int | None:
    """Number of entries without tensors between a layer and the one before it, where a numbered list tells it."""
    if not path[-1].isdecimal():
        return None
    if before is not None and before.path[:-1] == path[:-1] and before.path[-1].isdecimal():
        return int(path[-1]) - int(before.path[-1]) - 1
    return int(path[-1])  # the list's first entries


def _ranks(parts: Mapping[str, list[dict[str, Tensor]]]) -> dict[str, tuple[int, int, int]]:
    """Where the parts of a network come whose names a file sorts: convolutions, each with its norm, then linear layers.

    Args:
        parts: Name of a part -> the tensors of its layers; in the order of their numbers.
    """
    kinds: dict[str, str] = {}
    for part, layers in parts.items():
        shapes = [layer["weight"].ndim for layer in layers if "weight" in layer]
        kinds[part] = "convolutions" if 4 in shapes else "linear" if 2 in shapes else "norm"
    order = {"convolutions": 0, "linear": 1}
    places = {part: index for index, part in enumerate(parts)}
    ranks = {part: (order[kind], places[part], 0) for part, kind in kinds.items() if kind != "norm"}
    for norm in (part for part, kind in kinds.items() if kind == "norm"):
        number = re.findall(r"\d*$", norm)[0]
        owners = [part for part in ranks if re.findall(r"\d*$", part)[0] == number and kinds[part] != "norm"]
        owner = min(owners, key=lambda part: ranks[part], default=None)
        ranks[norm] = (*ranks[owner][:2], 1) if owner else (0, places[norm], 0)
    return ranks


def _numbered(name: str) -> list[tuple[bool, str]]:
    """Sort key by which `conv10` comes after `conv2`."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), part.zfill(9) if part.isdecimal() else part) for part in parts]
