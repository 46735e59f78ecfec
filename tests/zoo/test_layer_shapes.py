"""Layers, their channels and the gaps between them are read from the names and shapes of tensors."""

from __future__ import annotations

from torch import nn

from dfml.zoo.layer_shapes import read_layers


def test_layers_have_their_channels_kernels_and_gaps() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ReLU(),
        nn.Linear(8, 2),
        nn.BatchNorm1d(2),
        nn.Linear(2, 2),
    )
    found = read_layers(network.state_dict())
    assert [(each.kind, each.inputs, each.outputs, each.gap) for each in found] == [
        ("Conv2d", 3, 4, 0),
        ("BatchNorm2d", 4, 4, 0),
        ("Linear", 8, 2, 2),
        ("BatchNorm1d", 2, 2, 0),
        ("Linear", 2, 2, 0),
    ]
    assert (found[0].kernel, found[0].bias, found[2].bias) == ((3, 5), False, True)


def test_sorted_names_are_read_in_the_order_of_their_numbers() -> None:
    network = nn.ModuleDict(
        {f"conv{index}": nn.Conv2d(index, index + 1, 3) for index in range(1, 12)} | {"fc": nn.Linear(12, 2)}
    )
    names = dict(sorted(network.state_dict().items()))
    assert list(names)[:3] == ["conv1.bias", "conv1.weight", "conv10.bias"]
    assert [each.outputs for each in read_layers(names)] == [*range(2, 13), 2]


def test_a_last_layer_that_is_a_norm_is_no_classifier() -> None:
    assert read_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()) == []
