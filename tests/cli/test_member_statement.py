"""What the options of `dfml zoo add` say about a member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dfml.cli.member_statement import read_size, read_statement, read_values
from dfml.errors import ConfigError, UsageError
from dfml.zoo.adding import Stated
from dfml.zoo.owner_networks import network_digest
from tests.cli.conftest import write_images

NOTHING: dict[str, Any] = dict.fromkeys(
    (
        *("name", "architecture", "layers", "network", "labels", "size", "channels", "mean", "std", "pixel_range"),
        *("interpolation", "output", "images", "class_index"),
    )
)


def stated(**options: Any) -> Stated:
    return read_statement(**{**NOTHING, **options})


def test_what_is_not_given_is_not_stated() -> None:
    found = stated()
    assert found.fields == {}
    assert found.images is None
    assert not found.accept_preprocessing


def test_options_become_fields_of_an_entry() -> None:
    found = stated(
        name="mine",
        architecture="timm:resnet18",
        labels="ant, bee",
        size="48x64",
        channels=1,
        mean="0.5",
        std="0.1,0.2,0.3",
        pixel_range="0..255",
        output="softmax",
    )
    assert found.fields == {
        "name": "mine",
        "architecture": "timm:resnet18",
        "labels": ("ant", "bee"),
        "size": (48, 64),
        "channels": 1,
        "mean": (0.5,),
        "std": (0.1, 0.2, 0.3),
        "range": "0..255",
        "output": "softmax",
    }


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(["Flatten", {"head": "Linear(12, 2)"}]))
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    found = stated(layers=tmp_path / "layers.yaml", labels=str(tmp_path / "labels.txt"))
    assert found.fields["architecture"] == ["Flatten", {"head": "Linear(12, 2)"}]
    assert found.fields["labels"] == ("ant", "bee")


def test_a_network_is_recorded_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text("class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    found = stated(network="model.py:Net").fields
    assert found["network"] == f"{tmp_path / 'model.py'}:Net"
    assert found["network_sha256"] == network_digest("model.py:Net")


def test_labelled_images_are_read_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "images", classes=2, per_class=2, seed=0, prefix="ant")
    (tmp_path / "index.yaml").write_text("ant_0: 1\nant_1: 0\n")
    found = stated(images=tmp_path / "images", class_index=tmp_path / "index.yaml")
    assert found.class_index == {"ant_0": 1, "ant_1": 0}
    assert found.images is not None
    pixels, labels, names = found.images(20, "bilinear")
    assert pixels.shape == (4, 3, 20, 20)
    assert labels.tolist() == [0, 0, 1, 1]
    assert tuple(names) == ("ant_0", "ant_1")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "timm:resnet18", "network": "a.py:Net"}, "one of --arch, --layers and --network"),
        ({"channels": 2}, "--channels 1 or 3, found 2"),
        ({"class_index": Path("index.yaml")}, "--class-index is for the folders of --check-with"),
        ({"mean": "0.5"}, "both of --mean and --std"),
        ({"std": "0.5"}, "both of --mean and --std"),
        ({"mean": "a", "std": "1"}, "--mean with one number, or three"),
        ({"mean": "0,0", "std": "1"}, "--mean with one number, or three"),
        ({"size": "0"}, "--size N or HxW"),
        ({"size": "1x2x3"}, "--size N or HxW"),
        ({"size": "large"}, "--size N or HxW"),
        ({"labels": "one"}, "--labels with a file, or class names"),
        ({"labels": "a,,b"}, "--labels with a file, or class names"),
        ({"layers": Path("no/such/file.yaml")}, "cannot be read as YAML"),
    ],
)
def test_a_wrong_form_is_a_wrong_usage(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        stated(**options)


@pytest.mark.parametrize("network", ["model.py", "model.py:", "model:Net"])
def test_a_network_is_a_file_and_a_class(network: str) -> None:
    with pytest.raises(ConfigError, match=r"FILE\.py:CLASS"):
        stated(network=network)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "expected a dict, found a list"),
        ("ant: first", "numbers of outputs"),
        ("ant: -1", "numbers of outputs"),
        ("ant: true", "numbers of outputs"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_index_of_classes_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "index.yaml").write_text(text)
    with pytest.raises(UsageError, match=reason):
        stated(images=tmp_path, class_index=tmp_path / "index.yaml")


def test_sizes_and_values() -> None:
    assert read_size("32") == read_size("32x32") == 32
    assert read_size("32X48") == (32, 48)
    assert read_values("--mean", "0.5") == (0.5,)
    assert read_values("--std", "1, 2,3") == (1.0, 2.0, 3.0)
