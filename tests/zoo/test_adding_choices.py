"""What makes an entry of a manifest: the architecture that fits best, interpolation, pinned code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfml.backbones.cifar_resnet import CifarResNet
from dfml.errors import ZooMemberError
from dfml.images import Interpolation
from dfml.zoo.adding import Stated, assess
from dfml.zoo.layer_lists import build_layers
from dfml.zoo.manifest import Manifest
from dfml.zoo.pinned_code import ALLOWED
from dfml.zoo.pretrained import PretrainedClassifier
from tests.zoo.test_pinned_code import save

FIELDS: dict[str, Any] = {"labels": ("ant", "bee"), "mean": (0.0,), "std": (1.0,)}


def test_the_architecture_with_the_smallest_distance_of_statistics_is_proposed(tmp_path: Path) -> None:
    file = tmp_path / "resnet.pth"
    torch.save(CifarResNet(8, 2, shortcut="A-end").state_dict(), file)

    stated = Stated(FIELDS, accept_architecture=True)
    first = assess(file, tmp_path / "zoo", Manifest(), stated)
    assert first.entry is not None
    assert first.entry.arguments == {"shortcut": "A"}  # in the order of the proposals
    seen: list[int] = []

    def second_is_best(member: PretrainedClassifier) -> float:
        seen.append(len(seen))
        return 0.1 if len(seen) == 2 else 0.7

    best = assess(file, tmp_path / "zoo", Manifest(), Stated(FIELDS, accept_architecture=True, distance=second_is_best))
    assert best.entry is not None
    assert best.entry.arguments == {"shortcut": "A-end"}
    assert len(seen) == 3
    assert any("A-end 0.1, " in note for note in best.notes)


class Stripes:
    """Rows of pixels in turn light and dark: classes that only single pixels tell apart at half the size."""

    def __init__(self) -> None:
        self.asked: list[Interpolation] = []

    def __call__(self, size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor, Sequence[str]]:
        self.asked.append(interpolation)
        classes = torch.arange(40) % 2
        value = classes.float() if interpolation == "nearest" else torch.full((40,), 0.5)
        return value.view(40, 1, 1, 1).expand(40, 3, size, size), classes, ("ant", "bee")


@pytest.fixture
def brightness(tmp_path: Path) -> tuple[Path, list[Any]]:
    """A network that calls dark images ants and light ones bees."""
    layers: list[Any] = ["AdaptiveAvgPool2d(1)", "Flatten", "Linear(3, 2)"]
    network = build_layers(layers)
    linear = network[2]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        linear.bias.copy_(torch.tensor([1.5001, -1.5]))
    path = tmp_path / "brightness.pth"
    torch.save(network.state_dict(), path)
    return path, layers


def test_a_better_interpolation_is_named_and_a_stated_one_is_used(
    brightness: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    file, layers = brightness
    fields = {**FIELDS, "architecture": layers, "size": 8}
    found = assess(file, tmp_path / "zoo", Manifest(), Stated(fields, images=Stripes()))
    assert found.entry is not None
    assert found.entry.evidence["accuracy"] == "50.0% of 40 labelled images"
    (note,) = [note for note in found.notes if "--interpolation" in note]
    assert "--interpolation nearest (nearest 100.0%, bilinear 50.0%, bicubic 50.0%)" in note
    stripes = Stripes()
    stated = Stated({**fields, "interpolation": "nearest"}, images=stripes)
    found = assess(file, tmp_path / "zoo", Manifest(), stated)
    assert found.entry is not None
    assert found.entry.evidence["accuracy"] == "100.0% of 40 labelled images"
    assert found.entry.preprocessing().interpolation == "nearest"
    assert set(stripes.asked) == {"nearest"}
    assert not [note for note in found.notes if "--interpolation" in note]


def test_a_file_with_code_is_added_only_where_the_user_allows_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    file = save(tmp_path / "scripted.pt", "torchscript", network)
    stated = Stated({**FIELDS, "size": 12})
    with pytest.raises(ZooMemberError, match="run code of their author"):
        assess(file, tmp_path / "zoo", Manifest(), stated)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv(ALLOWED, digest)
    entry = assess(file, tmp_path / "zoo", Manifest(), stated).entry
    assert entry is not None
    assert (entry.format, entry.allow_code, entry.sha256) == ("torchscript", True, digest)
