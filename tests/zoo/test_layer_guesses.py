"""Layers of plain sequential networks are guessed from shapes as most people write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfml.zoo.layer_guesses import guess_layers, head_layers
from dfml.zoo.layer_lists import build_layers

TUTORIAL = [
    *({"conv1": "Conv2d(3, 6, 5)"}, "ReLU", "MaxPool2d(2)", {"conv2": "Conv2d(6, 16, 5)"}, "ReLU", "MaxPool2d(2)"),
    *("Flatten", {"fc1": "Linear(400, 120)"}, "ReLU", {"fc2": "Linear(120, 10)"}),
]
NUMBERED = [
    {
        "features": [
            *("Conv2d(3, 8, 3, padding=1)", "ReLU", "MaxPool2d(2)", "Conv2d(8, 16, 3, padding=1)"),
        ]
    },
    "ReLU",
    "MaxPool2d(2)",
    {"classifier": ["Flatten", "Linear(1024, 32)", "ReLU", "Dropout", "Linear(32, 5)"]},
]
NORMS = [
    {"conv": ["Conv2d(1, 8, 3, padding=1, bias=False)", "BatchNorm2d(8)"]},
    *(
        "ReLU",
        "MaxPool2d(2)",
        "Flatten",
        {"fc": "Linear(1568, 64)"},
        {"bn": "BatchNorm1d(64)"},
        "ReLU",
        {"out": "Linear(64, 10)"},
    ),
]
NORM_LAST = [
    {
        "f": [
            "Conv2d(3, 8, 3, padding=1)",
            "ReLU",
            "BatchNorm2d(8)",
            "MaxPool2d(2)",
            "Conv2d(8, 16, 3, padding=1)",
            "ReLU",
            "BatchNorm2d(16)",
        ]
    },
    *("MaxPool2d(2)", "AdaptiveAvgPool2d(1)", "Flatten", {"fc": "Linear(16, 5)"}),
]
STRIDED = [
    {
        "features": [
            *("Conv2d(3, 8, 3, stride=2, padding=1)", "ReLU", "Conv2d(8, 8, 3, stride=2, padding=1)", "ReLU"),
            "Conv2d(8, 16, 3, stride=2, padding=1)",
        ]
    },
    # 23 x 23 pixels: no usual image size leads to them by pooling.
    *("ReLU", "Flatten", {"fc": "Linear(8464, 5)"}),
]
PERCEPTRON = ["Flatten", "Linear(784, 32)", "ReLU", "Linear(32, 10)"]
POOLED_FIRST = [
    "MaxPool2d(2)",
    {"conv1": "Conv2d(1, 10, 3, padding=1)"},
    "ReLU",
    "MaxPool2d(2)",
    "Flatten",
    {"fc1": "Linear(490, 10)"},
]


@pytest.mark.parametrize(
    ("layers", "channels", "size"),
    [
        (TUTORIAL, 3, 32),
        (NUMBERED, 3, 32),
        (NORMS, 1, 28),
        (NORM_LAST, 3, None),
        (PERCEPTRON, 1, 28),
        (STRIDED, 3, 180),
        (POOLED_FIRST, 1, 28),
    ],
)
@pytest.mark.parametrize("order", ["as made", "sorted"])
def test_a_usual_network_is_the_first_guess(layers: list[Any], channels: int, size: int | None, order: str) -> None:
    weights = build_layers(layers).state_dict()
    outputs = len(weights[list(weights)[-1]])
    if order == "sorted" and layers is not NORMS:  # nothing tells which layer a norm without a number belongs to
        weights = dict(sorted(weights.items()))
    first = guess_layers(weights)[0]
    assert first.layers == layers
    assert (first.channels, first.size, first.outputs) == (channels, size, outputs)
    assert first.ambiguities


def test_depthwise_convolutions_have_groups() -> None:
    layers = [{"a": "Conv2d(3, 8, 3)"}, {"b": "Conv2d(8, 8, 3, groups=8, bias=False)"}, {"c": "Conv2d(8, 16, 1)"}]
    layers = [*layers, "AdaptiveAvgPool2d(1)", "Flatten", {"fc": "Linear(16, 2)"}]
    assert {"b": "Conv2d(8, 8, 3, padding=1, groups=8, bias=False)"} in guess_layers(build_layers(layers).state_dict())[
        0
    ].layers


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"fc.weight": torch.ones(2, 7)},  # no image has seven values
        {"conv.weight": torch.ones(4, 3, 3, 3), "fc.weight": torch.ones(2, 7)},
        {"a.weight": torch.ones(4, 3, 3, 3), "b.weight": torch.ones(4, 5, 3, 3), "fc.weight": torch.ones(2, 4)},
        {
            "conv.weight": torch.ones(4, 3, 3, 3),
            "shortcut.weight": torch.ones(4, 4, 1, 1),
            "fc.weight": torch.ones(2, 4),
        },
        {"norm.weight": torch.ones(4), "fc.weight": torch.ones(2, 4)},
        {"rnn.weight_ih": torch.ones(4, 4), "fc.weight": torch.ones(2, 4)},
    ],
)
def test_other_networks_are_not_guessed(weights: dict[str, torch.Tensor]) -> None:
    assert guess_layers(weights) == []


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    kernel=st.sampled_from([1, 3, 5]),
    norms=st.booleans(),
    hidden=st.lists(st.integers(1, 32), max_size=2),
    channels=st.sampled_from([1, 3]),
)
def test_every_guess_fits_the_weights(
    widths: list[int], kernel: int, norms: bool, hidden: list[int], channels: int
) -> None:
    convolutions: list[nn.Module] = []
    for before, width in zip([channels, *widths], widths, strict=False):
        convolutions += [nn.Conv2d(before, width, kernel), *([nn.BatchNorm2d(width)] if norms else []), nn.ReLU()]
    linear = [nn.Linear(a, b) for a, b in zip([widths[-1], *hidden], [*hidden, 7], strict=True)]
    network = nn.ModuleDict({"features": nn.Sequential(*convolutions), "classifier": nn.Sequential(*linear)})
    weights = network.state_dict()
    for guess in guess_layers(weights):
        build_layers(guess.layers).load_state_dict(weights, strict=True)
        assert guess.outputs == 7


def test_the_head_of_a_network_is_written_as_its_layers() -> None:
    head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3))
    assert head_layers(head.state_dict()) == ["Linear(8, 4)", "ReLU", "Dropout", "Linear(4, 3)"]
    assert head_layers({"a.weight": torch.ones(3, 8)}) is None
    assert head_layers({"0.weight": torch.ones(3, 8, 1, 1)}) is None
