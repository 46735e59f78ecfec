from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from dfml.data import BENCHMARKS, official_split
from dfml.data.splits import CIFAR_FS, MINI_IMAGENET, VGG_FLOWER
from dfml.errors import DataError, UsageError

LISTS = [(CIFAR_FS, (64, 16, 20)), (MINI_IMAGENET, (64, 16, 20)), (VGG_FLOWER, (71, 15, 16))]


@pytest.mark.parametrize(("lists", "counts"), LISTS, ids=["cifar-fs", "miniimagenet", "vgg-flower"])
def test_splits_have_the_published_sizes_and_never_overlap(
    lists: dict[str, tuple[str, ...]], counts: tuple[int, ...]
) -> None:
    assert tuple(len(set(lists[split])) for split in ("train", "val", "test")) == counts
    assert len(set().union(*lists.values())) == sum(counts)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "lists"), [("cifar-fs", CIFAR_FS), ("miniimagenet", MINI_IMAGENET)])
def test_the_lists_are_those_of_the_published_data(shared: Path, name: str, lists: dict[str, tuple[str, ...]]) -> None:
    with zipfile.ZipFile(shared / f"{name}.zip") as archive:
        members = {tuple(member.split("/")[:2]) for member in archive.namelist()}
    for split, names in lists.items():
        assert {name for where, name in members if where == split} == set(names)


def test_cub_goes_by_position_in_the_sorted_folders() -> None:
    folders = [f"{number:03}.bird" for number in range(1, 201)]
    random.Random(0).shuffle(folders)
    splits = {split: official_split("cub", split, folders) for split in ("train", "val", "test")}
    assert [len(splits[split]) for split in ("train", "val", "test")] == [100, 50, 50]
    assert splits["train"][:3] == ("001.bird", "003.bird", "005.bird")
    assert splits["val"][:2] == ("002.bird", "006.bird")
    assert splits["test"][:2] == ("004.bird", "008.bird")
    with pytest.raises(DataError, match="among its 200 class folders, found 199"):
        official_split("cub", "test", folders[1:])


def test_flowers_are_found_with_and_without_leading_zeros() -> None:
    assert official_split("vgg-flower", "val", [f"{number:05}" for number in range(1, 103)])[0] == "00010"
    assert "102" in official_split("vgg-flower", "val", [str(number) for number in range(1, 103)])


def test_other_folders_are_left_out_and_missing_ones_named() -> None:
    folders = [*MINI_IMAGENET["test"], "n00000001"]
    assert official_split("miniimagenet", "test", folders) == MINI_IMAGENET["test"]
    with pytest.raises(DataError, match="20 class folders for miniimagenet test, 2 are missing: n01930112, n01981276"):
        official_split("miniimagenet", "test", folders[2:])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"out of cifar-fs, cub, miniimagenet, vgg-flower, found 'cifar'"):
        official_split("cifar", "test", [])
    for benchmark in BENCHMARKS:
        with pytest.raises(UsageError, match="split out of train, val, test, found 'dev'"):
            official_split(benchmark, "dev", [])
