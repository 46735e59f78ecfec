"""Names and labels that a file gets where its owner stated none, and what only the user can say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfml.zoo.adding_rules import find_labels, member_name, missing_architecture, missing_preprocessing
from dfml.zoo.manifest import Manifest, ManifestMember
from dfml.zoo.preprocessing_ranking import PreprocessingRanking


def manifest(*paths: str) -> Manifest:
    return Manifest(members=tuple(ManifestMember(path=path, labels=2) for path in paths))


def test_a_file_is_named_like_itself(tmp_path: Path) -> None:
    assert member_name(tmp_path / "a" / "net.pth", tmp_path / "zoo", Manifest()) == "net"


def test_a_file_of_the_same_name_gets_that_of_its_folder_and_then_a_number(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    assert member_name(tmp_path / "b" / "net.pth", zoo, manifest("../a/net.pth")) == "b-net"
    taken = Manifest(
        members=(
            ManifestMember(path="../a/net.pth", labels=2),
            ManifestMember(path="../c/x.pth", name="b-net", labels=2),
        )
    )
    assert member_name(tmp_path / "b" / "net.pth", zoo, taken) == "b-net-2"


def test_a_file_that_is_a_member_keeps_its_name(tmp_path: Path) -> None:
    entry = ManifestMember(path="../a/net.pth", name="mine", labels=2)
    assert member_name(tmp_path / "a" / "net.pth", tmp_path / "zoo", Manifest(members=(entry,))) == "mine"


def test_the_name_of_a_folder_of_the_zoo_is_taken(tmp_path: Path) -> None:
    (tmp_path / "zoo" / "net").mkdir(parents=True)
    assert member_name(tmp_path / "a" / "net.pth", tmp_path / "zoo", Manifest()) == "a-net"


def test_labels_in_the_file_come_before_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    assert find_labels(tmp_path / "net.pth", ("x", "y"), 2) == ("x", "y")
    assert find_labels(tmp_path / "net.pth", (), 2) == ("ant", "bee")


def test_labels_count_only_if_they_are_as_many_as_the_outputs(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    (tmp_path / "class_names.json").write_text(json.dumps(["a", "b", "c"]))
    assert find_labels(tmp_path / "net.pth", ("x", "y"), 3) == ("a", "b", "c")
    assert find_labels(tmp_path / "net.pth", ("x", "y"), 4) == 4


def test_a_file_of_labels_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "class_names.json").write_bytes(b"\xff\xfe")
    (tmp_path / "synset.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    assert find_labels(tmp_path / "net.pth", (), 2) == ("tench", "goldfish")


@pytest.mark.parametrize(
    ("proposed", "points", "count", "said", "acceptable"),
    [
        (None, (), 0, "no known architecture fits", False),
        ("timm:resnet18", ("the activation",), 1, "the weights do not tell the activation", True),
        (["Flatten"], (), 3, "a list of layers fits, but 3 architectures fit them", True),
    ],
)
def test_what_is_open_about_an_architecture(
    proposed: str | list[str] | None, points: tuple[str, ...], count: int, said: str, acceptable: bool
) -> None:
    missing = missing_architecture(proposed, points, count)
    assert said in missing.reason
    assert "--arch NAME" in missing.flags
    assert missing.acceptable is acceptable


def test_preprocessing_without_a_clear_ranking_cannot_be_accepted() -> None:
    for ranking in (None, PreprocessingRanking()):
        missing = missing_preprocessing(ranking)
        assert "stated nowhere" in missing.reason
        assert "--mean and --std" in missing.flags
        assert "--accept-preprocessing" not in missing.flags
        assert not missing.acceptable
