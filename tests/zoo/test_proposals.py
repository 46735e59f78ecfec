"""Architectures are proposed from names and shapes: with other heads, stems, channels and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dfml.backbones import create_backbone
from dfml.backbones.cifar_resnet import SHORTCUTS, CifarResNet
from dfml.zoo.checkpoint_files import Checkpoint
from dfml.zoo.proposals import Proposal, propose
from dfml.zoo.state_dicts import tidy
from dfml.zoo.vetting import load_entry
from tests.factories import images


def proposed(network: nn.Module | dict[str, Tensor], *, sort: bool = False) -> list[Proposal]:
    """Proposals for a network's weights, as if they had been read from a file."""
    weights = network.state_dict() if isinstance(network, nn.Module) else network
    if sort:  # as in a safetensors file
        weights = dict(sorted(weights.items()))
    return propose(Checkpoint(Path("x.pth"), tidy(weights)[0]))


def _with(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
    return network


HEAD = nn.Sequential(nn.Dropout(), nn.Linear(512, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 5))
CASES: dict[str, tuple[Callable[[], nn.Module], str, dict[str, object]]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), "torchvision:resnet18", {}),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=5), "torchvision:squeezenet1_1", {}),
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=5), "torchvision:mobilenet_v2", {}),
    "wide": (lambda: torchvision.models.wide_resnet50_2(num_classes=5), "torchvision:wide_resnet50_2", {}),
    "head": (
        lambda: _with(torchvision.models.resnet34(), "fc", HEAD),
        "torchvision:resnet34",
        {"replace": {"fc": ["Dropout", "Linear(512, 16)", "ReLU", "BatchNorm1d(16)", "Linear(16, 5)"]}},
    ),
    "grey": (
        lambda: _with(torchvision.models.resnet18(num_classes=5), "conv1", nn.Conv2d(1, 64, 7, 2, 3, bias=False)),
        "torchvision:resnet18",
        {"replace": {"conv1": "Conv2d(1, 64, 7, 2, 3, bias=False)"}},
    ),
    "small images": (
        lambda: _with(torchvision.models.resnet18(num_classes=5), "conv1", nn.Conv2d(3, 64, 3, 1, 1, bias=False)),
        "torchvision:resnet18",
        {"replace": {"conv1": "Conv2d(3, 64, 3, 1, 1, bias=False)"}},
    ),
    "timm": (lambda: create_backbone("convnext_atto", 5), "timm:convnext_atto", {}),
    "timm grey": (
        lambda: create_backbone("mobilenetv3_small_050", 5, in_chans=1),
        "timm:mobilenetv3_small_050",
        {"in_chans": 1},
    ),
    "timm size": (lambda: create_backbone("test_vit", 5, img_size=64), "timm:test_vit", {"img_size": 64}),
    "own": (lambda: create_backbone("fewshot_resnet10", 5), "timm:fewshot_resnet10", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_named_architecture_is_the_first_proposal(case: str) -> None:
    make, architecture, arguments = CASES[case]
    with torch.device("meta"):
        network = make()
    first = proposed({name: torch.empty(tensor.shape) for name, tensor in network.state_dict().items()})[0]
    assert (first.architecture, first.arguments, first.outputs) == (architecture, arguments, 5)
    assert first.channels == (1 if "grey" in case else 3)
    assert bool(first.ambiguities) == (case in ("head", "small images"))


def test_a_proposal_loads_as_the_network_that_the_weights_came_from(tmp_path: Path) -> None:
    network = _with(torchvision.models.resnet18(num_classes=3), "conv1", nn.Conv2d(3, 64, 3, 1, 1, bias=False)).eval()
    torch.save({"net": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, tmp_path / "x.pth")
    (first, *_) = proposed(network)
    member = load_entry(first.entry("x.pth", size=32), tmp_path)
    assert torch.allclose(member.logits(images(2, size=32)), network(images(2, size=32)), atol=1e-4)


@pytest.mark.parametrize(("depth", "shortcut"), [(8, "A"), (20, "A-end"), (14, "B")])
def test_resnets_for_cifar_are_found_by_depth_under_any_names(depth: int, shortcut: str) -> None:
    network = CifarResNet(depth, 7, shortcut=shortcut)
    found = proposed(network)
    assert {proposal.architecture for proposal in found} == {f"cifar_resnet:{depth}"}
    kinds = [proposal.arguments["shortcut"] for proposal in found]
    assert kinds == (["B"] if shortcut == "B" else list(SHORTCUTS[:3]))
    assert {proposal.match for proposal in found} == {"names"}
    renamed = {
        f"a{index}.{name.rpartition('.')[2]}": tensor
        for index, (name, tensor) in enumerate(network.state_dict().items())
    }
    again = proposed(renamed)
    assert [(p.architecture, p.arguments, p.match) for p in again] == [
        (p.architecture, p.arguments, "order") for p in found
    ]


def test_other_names_in_the_same_order_are_found_by_their_shapes() -> None:
    network = torchvision.models.resnet18(num_classes=4)
    words = {"layer": "stage", "conv": "c", "bn": "norm", "fc": "out", "downsample": "side"}
    renamed = network.state_dict()
    for old, new in words.items():
        renamed = {name.replace(old, new): value for name, value in renamed.items()}
    first = proposed(renamed)[0]
    assert (first.architecture, first.match, first.outputs) == ("torchvision:resnet18", "order", 4)
    assert first.ambiguities


def test_weights_of_no_known_network_have_no_proposal() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.out = nn.Linear(8, 2)

    assert proposed(Odd()) == []
    assert proposed({"a": torch.ones(3)}) == []


def test_a_single_output_is_entered_as_a_logit_of_two_classes() -> None:
    entry = Proposal("timm:resnet18", 1).entry("x.pth")
    assert (entry.output, entry.labels) == ("logit", 2)
    assert Proposal("timm:resnet18", 3, size=48).entry("x.pth", labels=("a", "b", "c")).size == 48
