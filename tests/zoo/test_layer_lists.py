"""Lists of layers build the networks of torch.nn that they describe, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dfml.errors import ConfigError
from dfml.zoo.layer_lists import LAYERS, build_layers
from tests.factories import images

TUTORIAL = yaml.safe_load("""
- conv1: Conv2d(3, 6, 5)
- ReLU
- MaxPool2d(2, 2)
- features:
  - Conv2d(6, 16, kernel_size=5, bias=False)
  - BatchNorm2d(16)
  - LeakyReLU(0.1, inplace=True)
- AdaptiveAvgPool2d(1)
- Flatten
- fc: Linear(16, 10)
- LogSoftmax(1)
""")


def test_a_list_has_the_names_and_the_function_of_its_layers() -> None:
    network = build_layers(TUTORIAL)
    names = ["conv1.weight", "conv1.bias", "features.0.weight", "features.1.weight", "features.1.bias"]
    statistics = ["features.1.running_mean", "features.1.running_var", "features.1.num_batches_tracked"]
    assert list(network.state_dict()) == [*names, *statistics, "fc.weight", "fc.bias"]
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Sequential(nn.Conv2d(6, 16, 5, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
        nn.LogSoftmax(1),
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), network.state_dict().values(), strict=True)))
    assert torch.equal(network.eval()(images(2, size=32)), plain.eval()(images(2, size=32)))


def test_unnamed_layers_are_called_by_their_position() -> None:
    assert list(build_layers(["Flatten", "Linear(4, 3)", "ReLU", "Linear(3, 2)"]).state_dict()) == [
        *("1.weight", "1.bias", "3.weight", "3.bias"),
    ]


def test_no_memory_is_taken_on_the_meta_device() -> None:
    assert all(tensor.is_meta for tensor in build_layers(["Linear(1000000, 2000)"], device="meta").parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_the_vocabulary_is_one_of_torch(name: str) -> None:
    assert LAYERS[name] is getattr(nn, name)


@pytest.mark.parametrize(
    "entry",
    [
        "__import__('os').system('true')",
        "Conv2d(3, 6, __import__('os'))",
        "nn.Conv2d(3, 6, 5)",
        "Module",
        "Conv3d(1, 2, 3)",
        "Linear(3)",
        "Linear(3, 4, 5, 6, 7, 8)",
        "Linear(3, -4)",
        "Linear(3, nosuch=4)",
        "Linear(3, 99999999999)",
        "MaxPool2d(100000)",
        "Conv2d(3, 4, 3, padding=100000)",
        "AdaptiveAvgPool2d(100000)",
        "ZeroPad2d(5000)",
        "Dropout(float('nan'))",
        "Dropout(1e999)",
        "Linear(*[3, 4])",
        "lambda: 3",
        "Conv2d(3, 6, " + "(" * 150 + ")" * 20,
        "ReLU; ReLU",
        "",
        3,
        None,
        {"a": "ReLU", "b": "ReLU"},
        {"a.b": "ReLU"},
        {"forward": "ReLU"},
        {"": "ReLU"},
        {"x": []},
        {"x": {"y": "ReLU"}},
    ],
)
def test_what_is_no_layer_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match="architecture"):
        build_layers([entry])


@pytest.mark.parametrize(
    "layers",
    [
        [],
        ["ReLU"] * 3000,
        [{"a": "ReLU"}, {"a": "ReLU"}],
        ["Linear(100000, 100000)"],
        "ReLU",
        [[[[[[[[[["ReLU"]]]]]]]]]],
    ],
)
def test_lists_out_of_bounds_are_refused(layers: Any) -> None:
    with pytest.raises(ConfigError, match="architecture"):
        build_layers(layers)


@given(st.recursive(st.text(max_size=20) | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_any_value_is_built_or_refused(value: Any) -> None:
    try:
        network = build_layers([value], device="meta")
    except ConfigError:
        return
    assert len(network) == 1
