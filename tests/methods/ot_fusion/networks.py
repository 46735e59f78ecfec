"""Networks whose channels all differ, and the same networks with permuted channels."""

from __future__ import annotations

import torch
from torch import nn

from dfml.backbones import create_backbone
from dfml.methods.ot_fusion.transport import channel_layers, permute_channels


def permuted(network: nn.Module, seed: int) -> nn.Module:
    """The same function with its channels in another order."""
    generator = torch.Generator().manual_seed(seed)
    layers = channel_layers(network)
    norms = [layer for layer in layers if isinstance(network.get_submodule(layer.name), nn.BatchNorm2d)]
    widths = {layer.writes: network.get_submodule(layer.name).num_features for layer in norms}
    orders = {group: torch.randperm(width, generator=generator) for group, width in widths.items()}  # type: ignore[arg-type,misc]
    return permute_channels(network, layers, orders)  # type: ignore[arg-type]


def random_network(architecture: str, seed: int, classes: int = 3) -> nn.Module:
    """A network with random weights and random batch-norm parameters and statistics: no two channels are equal."""
    network = create_backbone(architecture, classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                assert value is not None
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.eval()
