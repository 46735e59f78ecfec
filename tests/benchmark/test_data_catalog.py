"""Data sets are found by option or environment variable, and their classes are known without decoding an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.benchmark.data_catalog import DATA_VARIABLE, locate
from dfml.benchmark.suite import DatasetSpec
from dfml.data.splits import CIFAR_FS
from dfml.errors import DataError, UsageError


def _images(folder: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").touch()
    return folder


def test_glyphs_lie_nowhere() -> None:
    found = locate("glyphs", DatasetSpec(train_images=3, test_images=2), {})
    for split, count in (("train", 3), ("test", 2)):
        opened = found.open(split, 16)
        sizes = found.class_sizes(split)
        assert tuple(sizes) == opened.classes
        assert set(sizes.values()) == {count}
        assert len(opened) == count * len(sizes)
        assert opened.name == f"glyphs/{split}"
    with pytest.raises(UsageError, match="not 'val'"):
        found.class_sizes("val")


def test_an_option_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _images(tmp_path / "insects" / "test", {"ant": 2, "bee": 1})
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert locate("insects", DatasetSpec(), {}).path == tmp_path / "insects"
    other = _images(tmp_path / "mine" / "test", {"cat": 1})
    assert locate("insects", DatasetSpec(), {"insects": other.parent}).path == other.parent
    assert locate("insects", DatasetSpec(), {}).class_sizes("test") == {"ant": 2, "bee": 1}


def test_a_data_set_that_is_not_found_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=r"'cub' is needed; give .* --data cub=PATH, or set DFML_DATA"):
        locate("cub", DatasetSpec(), {})
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=r"nothing at .*cub.zip, .*cub; give"):
        locate("cub", DatasetSpec(), {})
    with pytest.raises(UsageError, match=r"nothing at .*typo"):
        locate("cub", DatasetSpec(), {"cub": tmp_path / "typo"})


def test_undivided_data_needs_a_class_split(tmp_path: Path) -> None:
    folder = _images(tmp_path / "mine", dict.fromkeys([*CIFAR_FS.test, *CIFAR_FS.train, *CIFAR_FS.val], 1))
    with pytest.raises(DataError, match="without a split level"):
        locate("mine", DatasetSpec(), {"mine": folder}).class_sizes("test")
    for name, spec in (("mine", DatasetSpec(splits="cifar-fs")), ("cifar-fs", DatasetSpec())):
        assert tuple(locate(name, spec, {name: folder}).class_sizes("test")) == tuple(sorted(CIFAR_FS.test))


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    folder = _images(tmp_path / "mine" / "train", {"ant": 2, "bee": 1}).parent
    with pytest.raises(DataError, match=r"mine: expected the split 'test' in .*, which has train"):
        locate("mine", DatasetSpec(), {"mine": folder}).class_sizes("test")
