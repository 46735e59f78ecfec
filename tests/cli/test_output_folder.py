from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dfml.cli.output_folder import new_folder, report_write_errors, require_empty
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
    with pytest.raises(PermissionError, match="support"):  # of a file that the block reads
        write(PermissionError(errno.EACCES, "Permission denied", "support"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "(No space left on device); make room, or choose another"),
        (OSError("weights: I/O error (os error 28)"), "(weights: I/O error (os error 28)); make room, or choose"),
        (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system); choose another --out"),
    ],
)
def test_an_error_of_writing_names_the_folder_and_advises_to_make_room_on_a_full_disk_only(
    tmp_path: Path, error: OSError, message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError) as found, new_folder(out), report_write_errors(out):
        raise error
    assert str(found.value).startswith(f"{out} cannot be written {message}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_get_its_final_name_is_an_error_of_writing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match="out cannot be written"), new_folder(out):
        out.write_text("in the way")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="out cannot be written"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not be entered")
    with pytest.raises(RunError, match="cannot be written"), report_write_errors(tmp_path):
        (tmp_path / "missing" / "file").write_text("")
