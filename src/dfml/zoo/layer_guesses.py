"""Lists of layers for weights of plain sequential networks, guessed from their names and shapes.

Convolutions, linear layers and batch-norm follow from the tensors. What has no tensors is guessed as most people
write it: a ReLU after each layer, max-pooling by 2 after each convolution, dropout where a numbered list has a
gap left. Where the first linear layer has more inputs than channels, only combinations of pooling, padding and image
size count that give its number of inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from dfml.errors import ConfigError
from dfml.zoo.layer_lists import build_layers
from dfml.zoo.layer_shapes import FLAT, Layer, read_layers

_SIZES = {
    1: (28, 32, 64, 48, 128, 224),
    3: (32, 224, 28, 64, 128, 256, 96, 48, 150, 100, 30, 40, 50, 84, 180, 200, 299),
}
"""Side lengths of images that are tried, the most common first."""

_REDUCTIONS = ((False, 2, False), (True, 2, False), (False, 2, True), (False, 3, False), (False, 4, False))
"""Whether there is a pooling before the first convolution, the window of all, and whether convolutions have that stride
in place of a pooling after them; a later one where no other fits."""

_POOL = re.compile(r"MaxPool2d\((\d+)\)")
_CONVOLUTION = re.compile(
    r"Conv2d\(\d+, \d+, (\d+)(?:, stride=(\d+))?(?:, padding=(\d+))?[,)]"
)  # square kernels, as `_text` writes them

_MAX_GUESSES, _MAX_POOLS = 6, 6
_TRACKED = "num_batches_tracked"
_UNSEEN = "the activations, strides and padding, where pooling is, and whether layers have shortcuts"


@dataclass(frozen=True)
class LayerGuess:
    """A list of layers that the weights fit.

    Attributes:
        layers: The list (`dfml.zoo.layer_lists`).
        outputs: Number of outputs.
        channels: Channels of the images.
        size: Side length of the images in pixels; None where the weights take any.
        ambiguities: What was guessed, in words.
    """

    layers: list[Any]
    outputs: int
    channels: int
    size: int | None
    ambiguities: tuple[str, ...]


def guess_layers(state_dict: Mapping[str, Tensor]) -> list[LayerGuess]:
    """Guess the layers of a plain sequence of convolutions, linear layers and batch-norm.

    Args:
        state_dict: Tensors by name, in the order in which they were made.

    Returns:
        Guesses, the most usual first, at most six; empty where the tensors are no such sequence.
    """
    layers = read_layers(state_dict)
    if not layers:
        return []
    for reduction in _REDUCTIONS:
        guesses: list[LayerGuess] = []
        for guess in _complete(layers, *reduction):
            if guess not in guesses and _fits(guess, state_dict):
                guesses.append(guess)
            if len(guesses) == _MAX_GUESSES:
                break
        if guesses:
            return guesses
    return []


def head_layers(state_dict: Mapping[str, Tensor]) -> list[Any] | None:
    """Guess the layers of a head that is an `nn.Sequential`: linear layers and batch-norm.

    Args:
        state_dict: Its tensors, by names that begin with the layers' numbers.

    Returns:
        A list of layers; None where the tensors are no such sequence.
    """
    layers = read_layers(state_dict)
    if not layers or any(layer.kind == "Conv2d" or len(layer.path) != 1 for layer in layers):
        return None
    if not all(layer.path[0].isdecimal() for layer in layers):
        return None
    nothing = _Pooling({}, "", lead=False)
    before: list[tuple[str, ...]] = [(), *(_between(layers, index, nothing, ()) for index in range(1, len(layers)))]
    return _write(layers, before, first_fill="Dropout")


def _complete(layers: Sequence[Layer], lead: bool, window: int, strided: bool) -> Iterator[LayerGuess]:
    """Yield guesses of what lies between the layers, the most usual first."""
    convolutions = [index for index, layer in enumerate(layers) if layer.kind == "Conv2d"]
    outputs = layers[-1].outputs
    if not convolutions:
        yield from _perceptrons(layers)
        return
    channels = layers[0].inputs
    linear = next((index for index, layer in enumerate(layers) if layer.kind == "Linear"), None)
    last = layers[convolutions[-1]].outputs
    wide = linear is not None and layers[linear].inputs != last
    if strided and not wide:
        return  # any stride fits: the shapes decide none
    for chosen in _patterns(layers, convolutions, strided):
        for padded in (True, False):
            reduced = dict(zip(convolutions, chosen, strict=True))
            strides = {index: window for index, reduces in reduced.items() if reduces} if strided else {}
            pooled = _Pooling({} if strided else reduced, f"MaxPool2d({window})", lead, strides)
            if not wide:
                steps = _steps(layers, pooled, padded, end=("AdaptiveAvgPool2d(1)", "Flatten"))
                yield LayerGuess(steps, outputs, channels, None, (_UNSEEN, "the size of its images"))
                continue
            assert linear is not None
            steps = _steps(layers, pooled, padded, end=("Flatten",))
            inside = _steps(layers[:linear], pooled, padded, end=())
            for size in _SIZES.get(channels, _SIZES[3]):
                if last * _final_side(inside, size) ** 2 == layers[linear].inputs:
                    yield LayerGuess(steps, outputs, channels, size, (_UNSEEN,))


@dataclass(frozen=True)
class _Pooling:
    """What makes feature maps smaller.

    Attributes:
        after: Whether there is a pooling after each convolution, by the position of the layer.
        layer: The pooling.
        lead: Whether there is one before the first convolution.
        strides: Strides of convolutions that have another than 1.
    """

    after: dict[int, bool]
    layer: str
    lead: bool
    strides: dict[int, int] = field(default_factory=dict)


def _patterns(layers: Sequence[Layer], convolutions: Sequence[int], strided: bool) -> Iterator[tuple[bool, ...]]:
    """Whether there is a pooling after each convolution, or a stride in it: for all first, then for fewer."""
    free = [index for index in convolutions if strided or index + 1 == len(layers) or _next_gap(layers, index) is None]
    choices = list(product((True, False), repeat=min(len(free), _MAX_POOLS)))
    for choice in sorted(choices, key=lambda each: each.count(False)):
        chosen = dict(zip(free, choice, strict=False))
        yield tuple(chosen.get(index, True) for index in convolutions)


def _next_gap(layers: Sequence[Layer], index: int) -> int | None:
    """The gap before the next convolution or linear layer, over batch-norm; None where any number may be in it."""
    gaps = []
    for layer in layers[index + 1 :]:
        same = layer.path[:-1] == layers[index].path[:-1]
        gaps.append(layer.gap if same else None)
        if not layer.is_norm:
            break
    return None if not gaps or gaps[-1] is None else gaps[-1]


def _steps(layers: Sequence[Layer], pooling: _Pooling, padded: bool, end: tuple[str, ...]) -> list[Any]:
    """The list of layers for one choice of pooling and padding; `end` stands between convolutions and linear layers."""
    before: list[tuple[str, ...]] = [(pooling.layer,) if pooling.lead else ()]
    before += [_between(layers, index, pooling, end) for index in range(1, len(layers))]
    after = _after_last_convolution(layers, pooling, end) if layers[-1].kind not in FLAT else ()
    return _write(layers, before, padded=padded, after=after, strides=pooling.strides)


def _between(layers: Sequence[Layer], index: int, pooling: _Pooling, end: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before a layer: the activation of the one before, its pooling, and the way into linear layers."""
    layer, previous = layers[index], layers[index - 1]
    if layer.is_norm:
        return ("ReLU",) if layer.gap and layer.path[:-1] == previous.path[:-1] else ()
    source = index - 1
    while source and layers[source].is_norm:
        source -= 1
    activated = previous.is_norm and bool(previous.gap) and source + 1 == index - 1
    steps: tuple[str, ...] = () if activated else ("ReLU",)
    if layers[source].kind == "Conv2d" and pooling.after.get(source, False):
        same = layer.path[:-1] == previous.path[:-1] and layer.gap is not None
        if not same or layer.gap is None or layer.gap > len(steps):
            steps += (pooling.layer,)
    if layers[source].kind == "Conv2d" and layer.kind == "Linear":
        steps += end
    return steps


def _after_last_convolution(layers: Sequence[Layer], pooling: _Pooling, end: tuple[str, ...]) -> tuple[str, ...]:
    index = max(position for position, layer in enumerate(layers) if layer.kind == "Conv2d")
    activated = index + 1 < len(layers) and bool(layers[index + 1].gap)
    return (*(() if activated else ("ReLU",)), *((pooling.layer,) if pooling.after.get(index) else ()), *end)


def _write(
    layers: Sequence[Layer],
    before: Sequence[tuple[str, ...]],
    *,
    padded: bool = True,
    after: tuple[str, ...] = (),
    first_fill: str = "Identity",
    strides: Mapping[int, int] | None = None,
) -> list[Any]:
    """Write layers and the steps between them as a list, each numbered list with exactly the entries of its gaps."""
    root: list[Any] = []
    for index, layer in enumerate(layers):
        steps = list(before[index]) if index < len(before) else []
        target = root
        for part in layer.path[:-1]:
            target = _sublist(target, part)
        numbered = layer.path[-1].isdecimal()
        room = int(layer.path[-1]) - len(target) if numbered else None
        outer = _outer(root, layer.path)
        text = _text(layer, padded, (strides or {}).get(index, 1))
        if room is None:
            outer += steps
            target.append({layer.path[-1]: text})
            continue
        if not target and room < len(steps):  # the first of its list: what has no room stands before the list
            moved, steps = steps[: len(steps) - room], steps[len(steps) - room :]
            place = outer.index({layer.path[-2]: target}) if len(layer.path) > 1 else 0
            outer[place:place] = moved
            # A list without a name is numbered from its beginning, so nothing can stand before it.
            room = int(layer.path[-1]) - len(target)
        steps = [*steps, *([_filling(layers, index, first_fill)] * max(0, room - len(steps)))][: max(0, room)]
        target += steps
        target.append(text)
    return [*root, *after]


def _outer(root: list[Any], path: tuple[str, ...]) -> list[Any]:
    """The list that holds the innermost list of a path; the root itself for a path of one or two parts."""
    target = root
    for part in path[:-2]:
        target = _sublist(target, part)
    return target


def _sublist(target: list[Any], name: str) -> list[Any]:
    """The list of a name in a list; a new one at its end where there is none."""
    for entry in target:
        if isinstance(entry, dict) and name in entry:
            found: list[Any] = entry[name]
            return found
    target.append({name: []})
    created: list[Any] = target[-1][name]
    return created


def _filling(layers: Sequence[Layer], index: int, first: str) -> str:
    """A step for an entry that nothing else explains; all of them leave the shape as it is."""
    return first if index == 0 else "Dropout"


def _text(layer: Layer, padded: bool, stride: int) -> str:
    if layer.kind == "Linear":
        return f"Linear({layer.inputs}, {layer.outputs}{'' if layer.bias else ', bias=False'})"
    if layer.is_norm:
        return f"{layer.kind}({layer.outputs})"
    kernel: Any = layer.kernel[0] if layer.kernel[0] == layer.kernel[1] else layer.kernel
    padding: Any = layer.kernel[0] // 2 if layer.kernel[0] == layer.kernel[1] else tuple(k // 2 for k in layer.kernel)
    options = [f"stride={stride}"] if stride > 1 else []
    options += [f"padding={padding}"] if padded and padding not in (0, (0, 0)) else []
    options += [f"groups={layer.groups}"] if layer.groups > 1 else []
    options += [] if layer.bias else ["bias=False"]
    return f"Conv2d({', '.join([str(layer.inputs), str(layer.outputs), str(kernel), *options])})"


def _perceptrons(layers: Sequence[Layer]) -> Iterator[LayerGuess]:
    """Guesses for linear layers alone: images whose pixels are the inputs of the first."""
    for channels, sizes in sorted(_SIZES.items()):
        for size in sizes:
            if layers[0].inputs == channels * size * size:
                between = (_between(layers, index, _Pooling({}, "", lead=False), ()) for index in range(1, len(layers)))
                before = [("Flatten",), *between]
                written = _write(layers, before, first_fill="Flatten")
                yield LayerGuess(written, layers[-1].outputs, channels, size, ("the activations",))


def _final_side(layers: list[Any], size: int) -> int:
    """Side length of the last feature map of a square image; 0 where it becomes smaller than a kernel."""
    for entry in layers:
        if isinstance(entry, dict):
            for inner in entry.values():
                size = _final_side(inner if isinstance(inner, list) else [inner], size)
        elif window := _POOL.match(entry):
            size //= int(window[1])
        elif convolution := _CONVOLUTION.match(entry):
            stride, padding = int(convolution[2] or 1), int(convolution[3] or 0)
            size = max(0, (size + 2 * padding - int(convolution[1])) // stride + 1)
    return size


@torch.no_grad()
def _fits(guess: LayerGuess, state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the list has exactly the weights' names and shapes, and classifies an image."""
    try:
        network: nn.Module = build_layers(guess.layers, device="meta").eval()
        output = network(torch.empty(1, guess.channels, guess.size or 64, guess.size or 64, device="meta"))
    except (ConfigError, RuntimeError, ValueError):
        return False
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_TRACKED)}
        for tensors in (network.state_dict(), state_dict)
    )
    return expected == found and output.shape == (1, guess.outputs)
