"""The table of fingerprints is that of the installed architectures, and finds them by their tensors."""

from __future__ import annotations

import pytest
import torch

from dfml.zoo.architectures import build_architecture
from dfml.zoo.fingerprints import fingerprints_of, matching_fingerprints, same_sized_fingerprints

SAMPLE = [
    ("torchvision:resnet50", ["fc"]),
    ("torchvision:vgg11_bn", ["classifier.6", "classifier"]),
    ("torchvision:densenet121", ["classifier"]),
    ("timm:resnet18", ["fc"]),
    ("timm:vit_tiny_patch16_224", ["head"]),
    ("timm:conv4", ["head"]),
]


@pytest.mark.parametrize(("architecture", "heads"), SAMPLE)
def test_the_table_has_the_fingerprint_of_an_architecture(architecture: str, heads: list[str]) -> None:
    network = build_architecture(architecture, 7, device="meta")
    found = matching_fingerprints(network.state_dict())
    for expected in fingerprints_of(architecture, network, heads):
        assert expected in found


def test_the_closest_number_of_values_comes_first() -> None:
    network = build_architecture("torchvision:wide_resnet50_2", 3, device="meta")
    assert matching_fingerprints(network.state_dict())[0].architecture == "torchvision:wide_resnet50_2"


def test_networks_of_the_same_size_are_found_without_names() -> None:
    network = build_architecture("torchvision:resnet18", 3, device="meta")
    renamed = {
        f"x{index}": tensor
        for index, (name, tensor) in enumerate(network.state_dict().items())
        if "num_batches" not in name
    }
    head = {f"last.{name}": tensor for name, tensor in network.fc.state_dict().items()}  # type: ignore[union-attr]
    body = dict(list(renamed.items())[:-2])
    found = same_sized_fingerprints({**body, **head}, "last")
    assert found[0].architecture == "torchvision:resnet18"


def test_unknown_names_match_nothing() -> None:
    assert matching_fingerprints({"a.weight": torch.ones(2, 2)}) == []
