from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dfml.data import splits
from dfml.data.image_folder import open_images
from dfml.data.splits import (
    CIFAR_FS,
    MINI_IMAGENET,
    SPLITS,
    VGG_FLOWER,
    ClassSplit,
    ListedSplit,
    Split,
    find_split,
    official_split,
    register_split,
    split_names,
)
from dfml.errors import DataError, UsageError
from tests.packages import declare_entry_points

from .images import plain, write_folder

SHIPPED = ("cifar-fs", "cub", "miniimagenet", "vgg-flower")
SIZES = [(CIFAR_FS, (64, 16, 20)), (MINI_IMAGENET, (64, 16, 20)), (VGG_FLOWER, (71, 15, 16))]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the registry after the test."""
    monkeypatch.setattr(splits._SPLITS, "_registered", {})


@pytest.mark.parametrize(("split", "counts"), SIZES, ids=[split.name for split, _ in SIZES])
def test_splits_have_the_published_sizes_and_never_overlap(split: ListedSplit, counts: tuple[int, ...]) -> None:
    assert tuple(len(set(names)) for names in (split.train, split.val, split.test)) == counts
    assert len({*split.train, *split.val, *split.test}) == sum(counts)


@pytest.mark.shared
@pytest.mark.parametrize("split", [CIFAR_FS, MINI_IMAGENET], ids=["cifar-fs", "miniimagenet"])
def test_the_lists_are_those_of_the_published_data(shared: Path, split: ListedSplit) -> None:
    with zipfile.ZipFile(shared / f"{split.name}.zip") as archive:
        members = {tuple(member.split("/")[:2]) for member in archive.namelist()}
    for part in SPLITS:
        assert {name for where, name in members if where == part} == set(getattr(split, part))


def test_cub_is_divided_by_position_in_the_sorted_folders() -> None:
    folders = [f"{number:03}.bird" for number in range(1, 201)]
    random.Random(0).shuffle(folders)
    chosen = {split: official_split("cub", split, folders) for split in SPLITS}
    assert [len(chosen[split]) for split in SPLITS] == [100, 50, 50]
    assert chosen["train"][:3] == ("001.bird", "003.bird", "005.bird")
    assert chosen["val"][:2] == ("002.bird", "006.bird")
    assert chosen["test"][:2] == ("004.bird", "008.bird")
    with pytest.raises(DataError, match="among its 200 class folders, found 199"):
        official_split("cub", "test", folders[1:])


def test_flowers_are_found_with_and_without_leading_zeros() -> None:
    assert official_split("vgg-flower", "val", [f"{number:05}" for number in range(1, 103)])[0] == "00010"
    assert "102" in official_split("vgg-flower", "val", [str(number) for number in range(1, 103)])


def test_other_folders_are_left_out_and_missing_ones_named() -> None:
    folders = [*MINI_IMAGENET.test, "n00000001"]
    assert official_split("miniimagenet", "test", folders) == MINI_IMAGENET.test
    with pytest.raises(DataError, match="20 class folders for miniimagenet test, 2 are missing: n01930112, n01981276"):
        official_split("miniimagenet", "test", folders[2:])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown class split 'cifar'; choose one of cifar-fs, cub, minii"):
        official_split("cifar", "test", [])
    for name in SHIPPED:
        with pytest.raises(UsageError, match="split out of train, val, test, found 'dev'"):
            official_split(name, "dev", [])


@dataclass(frozen=True)
class Initials:
    """Every class is in the part that begins with its first letter; `chosen` overrules that."""

    name: str = "initials"
    chosen: tuple[str, ...] | None = None

    def classes(self, split: Split, folders: Sequence[str]) -> tuple[str, ...]:
        return self.chosen if self.chosen is not None else tuple(f for f in sorted(folders) if f[0] == split[0])


def test_the_shipped_splits_are_of_the_type_that_others_have_to_be() -> None:
    assert split_names() == SHIPPED
    assert all(isinstance(find_split(name), ClassSplit) and find_split(name).name == name for name in SHIPPED)
    assert isinstance(Initials(), ClassSplit)


@pytest.mark.usefixtures("registry")
def test_a_registered_split_divides_a_folder(tmp_path: Path) -> None:
    register_split(Initials())
    assert split_names() == (*SHIPPED, "initials")
    path = write_folder(tmp_path / "data", [(f"{name}/0.png", plain(1)) for name in ("tea", "tin", "toy", "van")])
    opened = open_images(path, split="test", official="initials", size=1, cache=tmp_path / "cache")
    assert opened.classes == ("tea", "tin", "toy")
    assert opened.name == "data/test"


@pytest.mark.usefixtures("registry")
def test_a_split_that_has_changed_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", [(f"{name}/0.png", plain(1)) for name in ("tea", "tin", "toy")])
    for chosen in (("tea",), ("toy", "tin")):
        register_split(Initials("mine", chosen))
        for _ in range(2):
            opened = open_images(path, split="test", official="mine", size=1, cache=tmp_path / "cache")
            assert opened.classes == chosen
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.usefixtures("registry")
def test_names_of_shipped_splits_are_protected() -> None:
    with pytest.raises(UsageError, match="'cub' is one of dfml's own"):
        register_split(Initials("cub"))
    assert find_split("cub") is splits.CUB


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("chosen", "words"),
    [((), "to choose different test classes"), (("a", "a"), "different test"), (("a", "b"), "not there: b")],
)
def test_a_split_that_chooses_badly_is_named(chosen: tuple[str, ...], words: str) -> None:
    register_split(Initials("mine", chosen))
    with pytest.raises(DataError, match=rf"the class split 'mine'.*{words}"):
        official_split("mine", "test", ["a"])


CODE = """
from dfml.data.splits import ListedSplit
mine = ListedSplit("mine", train=("a", "b"), val=(), test=("c",))
"""


def test_a_split_that_a_package_declares_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_splits.py").write_text(CODE)
    declare_entry_points(
        tmp_path, "mypackage", splits="mine = my_splits:mine\ncub = my_splits:mine\nzoo = my_splits:mine"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert split_names() == (*SHIPPED, "mine", "zoo")
    assert "my_splits" not in sys.modules
    assert find_split("cub") is splits.CUB
    assert official_split("mine", "train", ["c", "b", "a"]) == ("a", "b")
    with pytest.raises(UsageError, match=r"package mypackage\) is declared as the class split 'zoo'"):
        find_split("zoo")
    del sys.modules["my_splits"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("mine = my_splits:missing", "cannot be imported: .*AttributeError"),
        ("mine = not_there:mine", "cannot be imported: .*ModuleNotFoundError"),
        ("mine = json:loads", "expected an object with this `name` and a method `classes`"),
    ],
)
def test_what_is_wrong_with_a_declared_split_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, words: str
) -> None:
    (tmp_path / "my_splits.py").write_text(CODE)
    declare_entry_points(tmp_path, "mypackage", splits=entry)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"\(package mypackage\).*{words}"):
        find_split("mine")
    sys.modules.pop("my_splits", None)


def test_two_packages_that_declare_one_split_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_entry_points(tmp_path, "one", splits="mine = one:mine")
    declare_entry_points(tmp_path, "two", splits="mine = two:mine")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"package one\), .*package two\); uninstall all but one"):
        find_split("mine")


def test_the_names_are_read_without_torch() -> None:
    check = "import sys; import dfml.data.splits as s; s.split_names(); print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"
