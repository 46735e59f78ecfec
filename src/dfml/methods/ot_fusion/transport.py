"""Matching of the channels of two networks of the same architecture by optimal transport.

Networks that were trained independently compute similar features in different channels. A permutation of the channels
of one does not change its function, and moves its weights to where the other has similar ones (Singh and Jaggi, "Model
Fusion via Optimal Transport", NeurIPS 2020).
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dfml.backbones.conv4 import Conv4
from dfml.backbones.resnet import FewShotResNet
from dfml.errors import RunError

_MAX_PIVOTS = 10_000_000  # of the solver; a few thousand are enough for 512 channels


@dataclass(frozen=True)
class Layer:
    """A module with weights, and the channel groups of its inputs and outputs.

    A channel group is a set of channels that are permuted together. An output and the inputs of the layers that read it
    are of one group, and so are outputs that a shortcut adds.

    Attributes:
        name: Name of the module in its network.
        reads: Channel group of the inputs; None: inputs that are not permuted (colours, and the channels of a layer
            that maps every channel to itself).
        writes: Channel group of the outputs; None: classes.
    """

    name: str
    reads: int | None
    writes: int | None


Permutations = dict[int, Int64[Tensor, " _channels"]]
"""Channel group -> for each new position, the index of the channel that goes there."""

ChannelFeatures = dict[int, Float[Tensor, "_channels values"]]
"""Channel group -> one row of features per channel."""

MATCHABLE = (Conv4, FewShotResNet)
"""Architectures whose channel groups are known."""


def channel_layers(network: nn.Module) -> tuple[Layer, ...]:
    """The layers of a network in forward order, with their channel groups.

    Raises:
        TypeError: If the network is not one of `MATCHABLE`.
    """
    if isinstance(network, Conv4):
        return _chain(len(network.blocks))
    if isinstance(network, FewShotResNet):
        return _residual(network)
    raise TypeError(f"expected {' or '.join(kind.__name__ for kind in MATCHABLE)}, but found {type(network).__name__}")


def match_by_weights(network: nn.Module, reference: nn.Module, layers: Sequence[Layer]) -> Permutations:
    """Match channels with similar incoming weights, from the first layer to the last.

    The permutation of a group is computed when a layer first reads it, so that the incoming weights of later layers can
    be compared in the order of the reference. The group of a residual stream is matched by the layers before its first
    reader.

    Args:
        network: Network whose channels are permuted.
        reference: Network whose channels stay.
        layers: Layers of both; see `channel_layers`.
    """
    permutations: Permutations = {}
    incoming: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for layer in layers:
        if layer.reads is not None and layer.reads not in permutations:
            features, reference_features = (torch.cat(rows, dim=1) for rows in zip(*incoming[layer.reads], strict=True))
            permutations[layer.reads] = match_channels(features, reference_features)
        if layer.writes is not None:
            pair = (_incoming_weights(network, layer, permutations), _incoming_weights(reference, layer, {}))
            incoming[layer.writes].append(pair)
    return permutations


def match_by_activations(features: ChannelFeatures, reference: ChannelFeatures) -> Permutations:
    """Match channels with similar activations on the same images; see `channel_activations`."""
    return {group: match_channels(rows, reference[group]) for group, rows in features.items()}


@torch.no_grad()
def channel_activations(
    network: nn.Module, layers: Sequence[Layer], inputs: Float[Tensor, "images 3 height width"]
) -> ChannelFeatures:
    """Activations of every channel: the outputs of the batch-norm layers that write it, for all pixels of all images.

    Args:
        network: The network, in evaluation mode.
        layers: Its layers; see `channel_layers`.
        inputs: Normalised images.
    """
    maps: dict[int, list[Tensor]] = defaultdict(list)
    with ExitStack() as hooks:
        for layer in layers:
            module = network.get_submodule(layer.name)
            if layer.writes is not None and isinstance(module, nn.BatchNorm2d):
                outputs = maps[layer.writes]
                handle = module.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
                hooks.callback(handle.remove)
        network.forward_features(inputs)  # type: ignore[operator]
    return {
        group: torch.cat([output.transpose(0, 1).flatten(1) for output in outputs], dim=1)
        for group, outputs in maps.items()
    }


def match_channels(
    features: Float[Tensor, "channels values"], reference: Float[Tensor, "channels values"]
) -> Int64[Tensor, " channels"]:
    """The permutation of channels with the smallest sum of squared distances to the reference, by optimal transport.

    Every channel has mass one. For equal numbers of channels some optimal plan is a permutation (Birkhoff's theorem),
    and the solver returns one, because it moves from vertex to vertex of the set of plans.

    Args:
        features: Finite features of the channels.
        reference: Finite features of the reference's channels.

    Returns:
        For each channel of the reference, the index of the channel that matches it.
    """
    ot = import_solver()
    # Minus half a squared distance, up to the squared norms, whose sum is the same for every permutation.
    similarities = (reference @ features.T).double().cpu().numpy()
    costs = similarities.max() - similarities  # the solver fails for negative costs, and stops early for tiny ones
    mass = np.ones(len(costs))
    plan = ot.emd(mass, mass, costs / max(costs.max(), np.finfo(float).tiny), numItermax=_MAX_PIVOTS)
    return torch.from_numpy(plan.argmax(axis=1)).to(features.device)


def import_solver() -> ModuleType:
    """Import POT (Python Optimal Transport), which nothing else in dfml needs.

    Raises:
        RunError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # POT's source gives compiler warnings when it is first imported
            return importlib.import_module("ot")
    except ImportError as error:
        raise RunError(
            f"ot_fusion needs POT (Python Optimal Transport), which cannot be imported ({error}); install it with "
            "`pip install 'dfml[ot]'`"
        ) from error


def permute_channels(network: nn.Module, layers: Sequence[Layer], permutations: Permutations) -> nn.Module:
    """A copy of a network with permuted channels, which computes the same function.

    Args:
        network: The network; it is not changed.
        layers: Its layers; see `channel_layers`.
        permutations: Permutations of some or all of its channel groups.
    """
    copied = copy.deepcopy(network)
    for layer in layers:
        module = copied.get_submodule(layer.name)
        tensors = {name: _permute(value, layer, permutations) for name, value in module.state_dict().items()}
        module.load_state_dict(tensors)
    return copied


def _incoming_weights(network: nn.Module, layer: Layer, permutations: Permutations) -> Tensor:
    """A layer's weights, one row per output channel, with its inputs in the order of the reference."""
    inputs_only = Layer(layer.name, layer.reads, None)
    parameters = network.get_submodule(layer.name).parameters()
    rows = [_permute(value.detach(), inputs_only, permutations).reshape(len(value), -1) for value in parameters]
    return torch.cat(rows, dim=1)


def _permute(values: Tensor, layer: Layer, permutations: Permutations) -> Tensor:
    for axis, group in enumerate((layer.writes, layer.reads)):
        if group in permutations and axis < values.dim():
            values = permute_blocks(values, permutations[group], axis)
    return values


def permute_blocks(values: Tensor, permutation: Int64[Tensor, " channels"], axis: int) -> Tensor:
    """Permute the channels along an axis on which each channel has a block of consecutive entries.

    A head on a flattened feature map has such an axis: all pixels of a channel are next to each other.
    """
    shape = values.shape
    blocks = values.reshape(*shape[:axis], len(permutation), -1, *shape[axis + 1 :])
    return blocks.index_select(axis, permutation).reshape(shape)


def _chain(blocks: int) -> tuple[Layer, ...]:
    """Layers of a Conv4: the output of each block is a channel group of its own."""
    layers: list[Layer] = []
    for index in range(blocks):
        layers += _conv_norm(f"blocks.{index}", index - 1 if index else None, index)
    return (*layers, Layer("head", blocks - 1, None))


def _residual(network: FewShotResNet) -> tuple[Layer, ...]:
    """Layers of a few-shot ResNet: blocks without a projection shortcut share the group of the residual stream."""
    layers = _conv_norm("stem", None, 0)
    stream, groups = 0, 1
    for index, block in enumerate(network.blocks):
        inner, after = groups, stream
        groups += 1
        layers += _conv_norm(f"blocks.{index}.first", stream, inner)
        if not isinstance(block.shortcut, nn.Identity):
            after, groups = groups, groups + 1
            layers += _conv_norm(f"blocks.{index}.shortcut", stream, after)
        layers += _conv_norm(f"blocks.{index}.second", inner, after)
        stream = after
    return (*layers, Layer("head", stream, None))


def _conv_norm(name: str, reads: int | None, writes: int) -> list[Layer]:
    """A convolution and the batch-norm layer after it."""
    return [Layer(f"{name}.conv", reads, writes), Layer(f"{name}.norm", None, writes)]
