"""Configurations of members that have an entry in `zoo.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfml.errors import ZooMemberError
from dfml.zoo.formats import MemberConfig, format_named
from dfml.zoo.manifest import ManifestMember, entry_path
from dfml.zoo.manifest_members import read_entry
from tests.factories import member, write

STATED: dict[str, Any] = {"path": "weights.pth", "architecture": "timm:resnet18", "labels": ("ant", "bee"), "size": 32}


def read(folder: Path, named: str | None = None, **fields: Any) -> MemberConfig:
    entry = ManifestMember(**{**STATED, **fields})
    return read_entry(entry_path(folder, entry), entry, format_named(entry.format), named)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "weights.pth").write_bytes(b"not read here")
    return tmp_path


def test_the_entry_states_what_a_file_of_weights_does_not(zoo: Path) -> None:
    found = read(zoo, mean=(127.5,), std=(51.0,), range="0..255", held_out_accuracy=0.9, arguments={"drop_rate": 0.1})
    assert found.labels == ("ant", "bee")
    assert found.architecture == "timm:resnet18"
    assert found.arguments == {"drop_rate": 0.1}
    assert found.preprocessing.size == 32
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert found.preprocessing.std == (0.2, 0.2, 0.2)
    assert found.details == {"held_out_accuracy": 0.9}
    assert found.weight_file == zoo / "weights.pth"
    assert found.name == "weights"


def test_a_list_of_layers_is_an_argument(zoo: Path) -> None:
    found = read(zoo, architecture=["Flatten", "Linear(12, 2)"])
    assert (found.architecture, found.arguments) == ("layers", {"layers": ["Flatten", "Linear(12, 2)"]})


def test_a_folder_that_describes_itself_is_read_by_its_format(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "conv", member())
    entry = ManifestMember(path="elsewhere/conv", name="mine", format="timm")
    found = read_entry(entry_path(tmp_path, entry), entry, format_named("timm"), None)
    assert (found.architecture, found.labels, found.name) == ("conv4", ("a", "b", "c"), "mine")
    assert found.weight_file == tmp_path / "elsewhere" / "conv" / "model.safetensors"


def test_a_missing_file_is_named(zoo: Path) -> None:
    with pytest.raises(ZooMemberError, match=r"expected .*other\.pth, found no such file; correct `path` in zoo\.yaml"):
        read(zoo, path="other.pth")


def test_missing_labels_are_named(zoo: Path) -> None:
    with pytest.raises(ZooMemberError, match="labels: expected a list of class names"):
        read(zoo, labels=None)


@pytest.mark.parametrize("named", [None, "other.py:Net", "model.py:Other", "elsewhere/model.py:Net"])
def test_a_python_file_of_the_manifest_counts_only_if_the_user_names_the_same(zoo: Path, named: str | None) -> None:
    with pytest.raises(ZooMemberError, match=r"names model\.py:Net as its network.*--network weights=model\.py:Net"):
        read(zoo, named, architecture="", network="model.py:Net")


@pytest.mark.parametrize("inside", [True, False])
def test_the_same_file_may_be_named_from_the_zoo_or_from_here(
    zoo: Path, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = str(zoo / "model.py:Net")
    if not inside:
        monkeypatch.chdir(zoo)
        named = "model.py:Net"
    found = read(zoo, named, architecture="", network="model.py:Net")
    assert found.network == found.architecture == named
