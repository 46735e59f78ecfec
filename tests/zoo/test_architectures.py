"""Networks by the names that a manifest has for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dfml.errors import ConfigError
from dfml.zoo.architectures import build_architecture


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("torchvision:squeezenet1_1", 64), ("timm:resnet18", 32), ("conv4", 32), ("cifar_resnet:8", 32)],
)
def test_a_name_becomes_a_network_with_the_outputs(architecture: str, size: int) -> None:
    network = build_architecture(architecture, 3).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_a_list_of_layers_decides_on_its_outputs() -> None:
    network = build_architecture(["Flatten", {"head": "Linear(12, 5)"}], 3)
    assert set(network.state_dict()) == {"head.weight", "head.bias"}
    assert network(torch.zeros(2, 3, 2, 2)).shape == (2, 5)


def test_nothing_is_allocated_on_the_meta_device() -> None:
    for architecture in ("torchvision:resnet18", "timm:resnet18", "cifar_resnet:8", ["Linear(2, 2)"]):
        network = build_architecture(architecture, 4, device="meta")
        assert all(parameter.is_meta for parameter in network.parameters())


def test_modules_are_replaced_by_layers() -> None:
    layers = {"fc": ["Linear(512, 6)", "ReLU", "Linear(6, 2)"], "maxpool": "Identity", "layer4.1.bn2": "Identity"}
    network = build_architecture("torchvision:resnet18", 9, {"replace": layers})
    assert isinstance(network.get_submodule("maxpool"), nn.Identity)
    assert isinstance(network.get_submodule("layer4.1.bn2"), nn.Identity)
    assert network.get_submodule("fc.2").weight.shape == (2, 6)


@pytest.mark.parametrize(
    ("architecture", "arguments", "reason"),
    [
        ("torchvision:no_such_network", {}, "torchvision has no classifier 'no_such_network'"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "torchvision has no classifier"),
        ("timm:no_such_network", {}, "unknown architecture"),
        ("keras:resnet50", {}, "expected FAMILY:NAME, with torchvision, timm, cifar_resnet"),
        ("cifar_resnet:9", {}, "8, 14, 20, .* at most 1202, not 9"),
        ("timm:resnet18", {"no_such_argument": 1}, "cannot be built"),
        ("timm:resnet18", {"pretrained": True}, "the arguments pretrained are not accepted here"),
        ("torchvision:resnet18", {"weights": "DEFAULT", "progress": True}, "progress, weights are not accepted"),
        ("timm:resnet18", {"checkpoint_path": "weights.pth"}, "checkpoint_path"),
        (["Flatten"], {"depth": 3}, "a list of layers takes no arguments, found depth"),
        ("timm:resnet18", {"replace": ["fc"]}, "`replace`: expected a mapping"),
        ("timm:resnet18", {"replace": {"no.such.module": "ReLU"}}, "no module 'no.such.module'"),
        ("timm:resnet18", {"replace": {"fc": "os.system"}}, "expected a layer"),
    ],
)
def test_what_cannot_be_built_says_why(architecture: Any, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_architecture(architecture, 3, arguments)
