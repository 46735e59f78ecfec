"""Channels of one network matched with those of another of the same architecture, by optimal transport.

Networks that were trained apart compute alike things in different channels. Renumbering the channels of one changes
nothing of what it computes, and puts its weights where the other has the like (Singh and Jaggi, "Model Fusion via
Optimal Transport", NeurIPS 2020).
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dfml.backbones.conv4 import Conv4
from dfml.backbones.resnet import FewShotResNet

_MOST_PIVOTS = 10_000_000  # of the solver; a few thousand are enough for 512 channels


@dataclass(frozen=True)
class Layer:
    """A module with weights, and the numberings of channels that it takes part in.

    Channels that are handed on, or added to each other by a shortcut, share one numbering.

    Attributes:
        name: Of the module in its network.
        reads: The numbering of its input channels; None: what nobody may renumber (colours, and channels of a layer
            that maps every channel to itself).
        writes: The numbering of its output channels; None: classes.
    """

    name: str
    reads: int | None
    writes: int | None


Orders = dict[int, Int64[Tensor, " _channels"]]
"""For every numbering: which of a network's channels goes to each place."""

Rows = dict[int, Float[Tensor, "_channels values"]]
"""For every numbering: what is known of each channel."""

MATCHABLE = (Conv4, FewShotResNet)
"""Networks of which it is known how their layers hang together."""


def channel_layers(network: nn.Module) -> tuple[Layer, ...]:
    """The layers of a network in forward order, with the numberings of their channels.

    Raises:
        TypeError: If the network is not one of `MATCHABLE`.
    """
    if isinstance(network, Conv4):
        return _chain(len(network.blocks))
    if isinstance(network, FewShotResNet):
        return _residual(network)
    raise TypeError(f"expected {' or '.join(kind.__name__ for kind in MATCHABLE)}, but found {type(network).__name__}")


def match_by_weights(network: nn.Module, reference: nn.Module, layers: Sequence[Layer]) -> Orders:
    """Match channels whose incoming weights are alike, from the first layer to the last.

    A numbering is settled when it is first read, so that later incoming weights can be compared in the reference's
    order; of a residual stream, that is by the layers that begin it.

    Args:
        network: Whose channels are renumbered.
        reference: Whose channels stay.
        layers: Of both; see `channel_layers`.
    """
    orders: Orders = {}
    known: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for layer in layers:
        if layer.reads is not None and layer.reads not in orders:
            theirs, ours = (torch.cat(rows, dim=1) for rows in zip(*known[layer.reads], strict=True))
            orders[layer.reads] = transport(theirs, ours)
        if layer.writes is not None:
            known[layer.writes].append((_incoming(network, layer, orders), _incoming(reference, layer, {})))
    return orders


def match_by_activations(theirs: Rows, ours: Rows) -> Orders:
    """Match channels that answer alike to the same images; see `channel_activations`."""
    return {numbering: transport(rows, ours[numbering]) for numbering, rows in theirs.items()}


@torch.no_grad()
def channel_activations(
    network: nn.Module, layers: Sequence[Layer], inputs: Float[Tensor, "images 3 height width"]
) -> Rows:
    """What every channel answers to images: the outputs of the batch-norm layers that write it, pixel by pixel.

    Args:
        network: In evaluation mode.
        layers: See `channel_layers`.
        inputs: Normalised images.
    """
    maps: dict[int, list[Tensor]] = defaultdict(list)
    with ExitStack() as hooks:
        for layer in layers:
            module = network.get_submodule(layer.name)
            if layer.writes is not None and isinstance(module, nn.BatchNorm2d):
                seen = maps[layer.writes]
                handle = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
                hooks.callback(handle.remove)
        network.forward_features(inputs)  # type: ignore[operator]
    return {
        numbering: torch.cat([output.transpose(0, 1).flatten(1) for output in outputs], dim=1)
        for numbering, outputs in maps.items()
    }


def transport(
    theirs: Float[Tensor, "channels values"], ours: Float[Tensor, "channels values"]
) -> Int64[Tensor, " channels"]:
    """Which of their channels goes to each place of ours, at the least sum of squared distances.

    Every channel has mass one. Between equally many, some optimal plan moves each channel as a whole (Birkhoff), and
    the solver, which walks from vertex to vertex, ends with such a plan: a permutation.

    Args:
        theirs: Finite.
        ours: Finite.

    Returns:
        For each of our channels, the number of theirs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of POT's source when it is first imported
        import ot
    # A squared distance is two squared norms, of which every permutation pays the same sum, less twice this.
    alike = (ours @ theirs.T).double().cpu().numpy()
    costs = alike.max() - alike  # the solver fails where a cost is negative, and stops early where all are tiny
    mass = np.ones(len(costs))
    plan = ot.emd(mass, mass, costs / max(costs.max(), np.finfo(float).tiny), numItermax=_MOST_PIVOTS)
    return torch.from_numpy(plan.argmax(axis=1)).to(theirs.device)


def renumbered(network: nn.Module, layers: Sequence[Layer], orders: Orders) -> nn.Module:
    """A copy with its channels in another order, which computes the same function."""
    copied = copy.deepcopy(network)
    for layer in layers:
        module = copied.get_submodule(layer.name)
        module.load_state_dict({name: _reorder(value, layer, orders) for name, value in module.state_dict().items()})
    return copied


def _incoming(network: nn.Module, layer: Layer, orders: Orders) -> Tensor:
    """A layer's weights by output channel, its inputs in the reference's order."""
    reading = Layer(layer.name, layer.reads, None)
    parameters = network.get_submodule(layer.name).parameters()
    return torch.cat([_reorder(value.detach(), reading, orders).reshape(len(value), -1) for value in parameters], dim=1)


def _reorder(values: Tensor, layer: Layer, orders: Orders) -> Tensor:
    for axis, numbering in enumerate((layer.writes, layer.reads)):
        if numbering in orders and axis < values.dim():
            values = reorder_blocks(values, orders[numbering], axis)
    return values


def reorder_blocks(values: Tensor, order: Int64[Tensor, " channels"], axis: int) -> Tensor:
    """Reorder an axis that counts (channel, rest): a head over a flattened map has all pixels of a channel together."""
    shape = values.shape
    blocks = values.reshape(*shape[:axis], len(order), -1, *shape[axis + 1 :])
    return blocks.index_select(axis, order).reshape(shape)


def _chain(blocks: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for index in range(blocks):
        layers += _conv_norm(f"blocks.{index}", index - 1 if index else None, index)
    return (*layers, Layer("head", blocks - 1, None))


def _residual(network: FewShotResNet) -> tuple[Layer, ...]:
    layers = _conv_norm("stem", None, 0)
    stream, numberings = 0, 1
    for index, block in enumerate(network.blocks):
        inner, after = numberings, stream
        numberings += 1
        layers += _conv_norm(f"blocks.{index}.first", stream, inner)
        if not isinstance(block.shortcut, nn.Identity):
            after, numberings = numberings, numberings + 1
            layers += _conv_norm(f"blocks.{index}.shortcut", stream, after)
        layers += _conv_norm(f"blocks.{index}.second", inner, after)
        stream = after
    return (*layers, Layer("head", stream, None))


def _conv_norm(name: str, reads: int | None, writes: int) -> list[Layer]:
    return [Layer(f"{name}.conv", reads, writes), Layer(f"{name}.norm", None, writes)]
