"""How far a stranger's file is known: what it says, what the user says, and what is still missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.images import Interpolation
from dfml.zoo.adding import Assessment, Stated, assess, model_paths
from dfml.zoo.layer_lists import build_layers
from dfml.zoo.manifest import Manifest
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from tests.factories import PREPROCESSING, images, member, write

SIZE = 16
LAYERS = ["Conv2d(3, 8, 3, padding=1)", "BatchNorm2d(8)", "ReLU", "AdaptiveAvgPool2d(1)", "Flatten", "Linear(8, 2)"]
OWN = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FIELDS: dict[str, Any] = {"architecture": LAYERS, "size": SIZE, "labels": ("dark", "bright")}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Tells dark from bright images, normalised by `OWN`."""
    torch.manual_seed(0)
    made = build_layers(LAYERS)
    made[1].momentum = None
    with torch.no_grad():
        made.train()(OWN.normalise(images(64, size=SIZE)))
        made.eval()
        features = made[:5](OWN.normalise(torch.stack([torch.zeros(3, SIZE, SIZE), torch.ones(3, SIZE, SIZE)])))
        made[5].weight.copy_(torch.tensor([[-1.0], [1.0]]) * (features[1] - features[0]))
        made[5].bias.copy_(-made[5].weight @ features.mean(dim=0))
    return made


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "files" / "shades.safetensors"
    path.parent.mkdir()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


def labelled(size: int, interpolation: Interpolation = "bilinear") -> tuple[Tensor, Tensor, list[str]]:
    """Dark and bright images."""
    noise = 0.3 * images(16, seed=1, size=size)
    return torch.cat([noise, 1.0 - noise]), torch.arange(2).repeat_interleave(16), ["dark", "bright"]


def assessed(path: Path, tmp_path: Path, stated: Stated | None = None, **fields: Any) -> Assessment:
    stated = stated or Stated({**FIELDS, **fields})
    return assess(path, tmp_path / "zoo", Manifest(), stated)


def test_stated_preprocessing_makes_an_entry_complete(weights: Path, tmp_path: Path) -> None:
    found = assessed(weights, tmp_path, mean=(0.5,), std=(0.25,))
    assert found.missing == ()
    assert found.entry is not None
    assert found.entry.member_name == "shades"
    assert found.entry.labels == ("dark", "bright")
    assert found.entry.path == str(weights)
    assert found.entry.sha256 is not None
    assert found.entry.evidence["preprocessing"] == "stated by the user"
    assert found.entry.evidence["architecture"] == "stated by the user; a strict load fits"


def test_a_path_inside_of_the_zoo_is_relative(weights: Path, tmp_path: Path) -> None:
    found = assess(weights, tmp_path, Manifest(), Stated({**FIELDS, "mean": (0.5,), "std": (0.25,)}))
    assert found.entry is not None
    assert found.entry.path == "files/shades.safetensors"


def test_preprocessing_that_nobody_states_is_missing(weights: Path, tmp_path: Path) -> None:
    found = assessed(weights, tmp_path)
    assert [each.field for each in found.missing] == ["preprocessing"]
    assert found.ranking is not None
    assert found.ranking.by == "batch-norm statistics"


@pytest.mark.numeric
def test_labelled_images_confirm_it(weights: Path, tmp_path: Path) -> None:
    found = assessed(weights, tmp_path, Stated({**FIELDS, "mean": (0.5,), "std": (0.25,)}, images=labelled))
    assert found.missing == ()
    assert found.entry is not None
    assert "of 32 labelled images" in found.entry.evidence["accuracy"]
    assert found.ranking is not None
    own = next(each for each in found.ranking.ranked if each.candidate.name == "as stated")
    assert own.accuracy == 1.0


def test_images_of_other_classes_confirm_nothing(weights: Path, tmp_path: Path) -> None:
    def others(size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor, list[str]]:
        return images(2, size=size), torch.tensor([0, 1]), ["cat", "dog"]

    with pytest.raises(ZooMemberError, match=r"none of the image folders .cat, dog, .* --class-index"):
        assessed(weights, tmp_path, Stated(FIELDS, images=others))


def test_a_size_that_no_layer_tells_is_missing(weights: Path, tmp_path: Path) -> None:
    stated = {name: value for name, value in FIELDS.items() if name != "size"}
    found = assessed(weights, tmp_path, Stated(stated))
    assert "size" in [each.field for each in found.missing]


def test_an_architecture_that_does_not_fit_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooMemberError, match="does not fit"):
        assessed(weights, tmp_path, architecture=["Flatten", f"Linear({3 * SIZE * SIZE}, 2)"], mean=(0.5,), std=(0.5,))


def test_a_member_that_describes_itself_needs_nothing(tmp_path: Path) -> None:
    write(tmp_path / "files" / "conv", member())
    found = assessed(tmp_path / "files" / "conv", tmp_path, Stated())
    assert found.missing == ()
    assert found.entry is not None
    assert found.entry.format == "timm"
    assert found.entry.evidence["preprocessing"] == "stated by the files"


@pytest.mark.parametrize(("content", "reason"), [(b"", "it is empty"), (b"a text", "text or an image")])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(ZooMemberError, match=reason):
        assessed(tmp_path / "file.txt", tmp_path)


def test_a_folder_stands_for_the_models_in_it(weights: Path, tmp_path: Path) -> None:
    write(tmp_path / "files" / "conv", member(preprocessing=PREPROCESSING))
    (tmp_path / "files" / "read.me").write_text("a text")
    assert model_paths([tmp_path / "files"]) == [tmp_path / "files" / "conv", weights]
    assert model_paths([weights, weights]) == [weights]
    assert model_paths([tmp_path / "missing"]) == [tmp_path / "missing"]


def test_the_network_is_the_one_of_the_file(weights: Path, tmp_path: Path, network: nn.Module) -> None:
    from dfml.zoo.vetting import load_entry

    found = assessed(weights, tmp_path, mean=(0.5,), std=(0.25,))
    assert found.entry is not None
    loaded = load_entry(found.entry, tmp_path / "zoo")
    own = PretrainedClassifier(network, ("dark", "bright"), OWN)
    shown = images(3, size=SIZE)
    assert torch.allclose(loaded.predict_proba(shown), own.predict_proba(shown), atol=1e-5)
