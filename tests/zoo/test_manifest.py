"""The manifest is written and read without loss; what is wrong, hostile or unknown in it is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfml.errors import ConfigError, ZooError
from dfml.zoo import Preprocessing
from dfml.zoo.manifest import (
    MANIFEST,
    Manifest,
    ManifestMember,
    entry_path,
    find_entry,
    read_manifest,
    write_manifest,
)

FULL = ManifestMember(
    path="theirs/net.pth",
    name="net",
    architecture=[{"conv": "Conv2d(1, 2, 3)"}, "ReLU"],
    arguments={"replace": {"fc": "Identity"}},
    match="order",
    network="net.py:Net",
    network_sha256="0" * 64,
    labels=("no", "yes", "7", "ÅÄÖ", "true"),
    size=(30, 40),
    channels=1,
    layout="nhwc",
    range="0..255",
    mean=(127.5,),
    std=(51.0,),
    output="softmax",
    sha256="a" * 64,
    held_out_accuracy=0.91,
    evidence={"preprocessing": "confirmed"},
)


def refusal(folder: Path, text: str) -> str:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ZooError) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest(members=(FULL, ManifestMember(path="b.pth", labels=10)))
    write_manifest(tmp_path / "zoo", manifest)
    assert read_manifest(tmp_path / "zoo") == manifest
    (_, short) = yaml.safe_load((tmp_path / "zoo" / MANIFEST).read_text())["members"]
    assert short == {"path": "b.pth", "labels": 10}


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_a_changed_manifest_is_read_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(members=(FULL,)))
    assert read_manifest(tmp_path) is read_manifest(tmp_path)
    write_manifest(tmp_path, Manifest(members=(FULL, ManifestMember(path="b.pth"))))
    again = read_manifest(tmp_path)
    assert again is not None
    assert len(again.members) == 2


def test_a_member_is_added_or_replaced_by_its_name() -> None:
    manifest = Manifest().with_member(FULL).with_member(ManifestMember(path="other/net.pth"))
    assert [member.path for member in manifest.members] == ["other/net.pth"]
    assert manifest.find("net") == manifest.members[0]
    assert manifest.find("x") is None


@pytest.mark.parametrize(("path", "name"), [("a/b c.pth", "b_c"), ("é.x.pth", "é.x"), ("..", "member"), (".a", "a")])
def test_the_default_name_comes_from_the_file(path: str, name: str) -> None:
    assert ManifestMember(path=path).member_name == name


def test_the_preprocessing_is_that_of_images_in_0_1() -> None:
    found = FULL.preprocessing()
    assert found.size == 40
    assert found.mean == pytest.approx((0.5, 0.5, 0.5))
    assert found.std == pytest.approx((0.2, 0.2, 0.2))
    assert FULL.input_size == (30, 40)
    plain = ManifestMember(path="x", range="0..255")
    assert plain.preprocessing() == Preprocessing(224, (0.0,) * 3, (1 / 255,) * 3)
    assert plain.input_size is None


def test_labels_are_a_list_a_number_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert ManifestMember(path="x", labels="names.txt").label_names(tmp_path) == ("ant", "bee")
    assert ManifestMember(path="x", labels=3).label_names(tmp_path) == ("0", "1", "2")
    assert ManifestMember.model_validate({"path": "x", "labels": [7, "b"]}).label_names(tmp_path) == ("7", "b")
    for labels in (None, 0, 10**9, "missing.txt"):
        with pytest.raises(ConfigError, match="labels: expected"):
            ManifestMember(path="x", labels=labels).label_names(tmp_path)


def test_a_path_names_an_entry(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(members=(FULL,)))
    assert find_entry(entry_path(tmp_path, FULL)) == FULL
    assert find_entry(tmp_path / "model.pth") is None
    with pytest.raises(ZooError, match="no member 'other'"):
        find_entry(tmp_path / f"{MANIFEST}#other")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"path": ""},
        {"path": "x", "colour": 3},
        {"path": "x", "size": 0},
        {"path": "x", "size": [10, 10, 10]},
        {"path": "x", "size": 10**6},
        {"path": "x", "channels": 4},
        {"path": "x", "std": 0.0},
        {"path": "x", "std": [0.5, 0.5]},
        {"path": "x", "mean": [0.1, 0.2, 0.3], "channels": 1},
        {"path": "x", "mean": float("nan")},
        {"path": "x", "output": "scores"},
        {"path": "x", "sha256": "../../x"},
        {"path": "x", "name": "../x"},
        {"path": "x", "name": ".x"},
        {"path": "x", "labels": [True, False]},
        {"path": "x", "format_version": 2},
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, entry: dict[str, Any]) -> None:
    assert "members.0" in refusal(tmp_path, yaml.safe_dump({"members": [entry]}))


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "same name (x)" in refusal(tmp_path, "members: [{path: a/x.pth}, {path: b/x.pth}]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("members: [", "expected the manifest of a zoo"),
        ("- a", "not a mapping"),
        ("format_version: 2", "format_version"),
        ("members: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nmembers: [*b, *b]", "aliases"),
        ("members: " + "[" * 5000, "expected the manifest of a zoo"),
    ],
)
def test_a_hostile_or_damaged_manifest_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text)


def test_a_large_or_special_manifest_is_refused(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(ZooError, match="at most"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).unlink()
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(ZooError, match="no regular file"):
        read_manifest(tmp_path)
