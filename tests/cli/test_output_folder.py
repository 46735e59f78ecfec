from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dfml.cli.output_folder import new_folder, require_empty, writing
from dfml.errors import RunError


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_has_what_was_written(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with new_folder(out) as unfinished:
        (unfinished / "file").write_text("content")
        assert not list(out.glob("*"))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/file"]


def test_a_file_or_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="is not empty; choose another --out"), new_folder(out):
            pytest.fail("the block must not be entered")
    require_empty(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_nothing_and_keeps_its_type(tmp_path: Path) -> None:
    def write(error: Exception) -> None:
        with new_folder(tmp_path / "out") as unfinished:
            (unfinished / "file").write_text("half")
            raise error

    with pytest.raises(ValueError, match="a bug"):
        write(ValueError("a bug"))
    with pytest.raises(RunError, match=r"out cannot be written \(No space left on device\); make room"):
        write(OSError(errno.ENOSPC, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="out cannot be written"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not be entered")
    with pytest.raises(RunError, match="cannot be written"), writing(tmp_path):
        (tmp_path / "missing" / "file").write_text("")
