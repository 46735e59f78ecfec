from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dfml.files import (
    atomic_file,
    atomic_folder,
    atomic_write,
    open_regular_file,
    remove_folder,
    remove_unfinished,
    save_tensors,
)


class Failure(Exception):
    """Raised inside a block; no library raises it."""


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all files and folders that were flushed to the disk, in order."""
    names: list[str] = []
    flush = os.fsync

    def record(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return names


@pytest.mark.parametrize(("content", "expected"), [("Ä\n", b"\xc3\x84\n"), (b"\xff\r\n", b"\xff\r\n"), ("", b"")])
def test_a_file_holds_exactly_the_content(tmp_path: Path, content: str | bytes, expected: bytes) -> None:
    path = tmp_path / "file.txt"
    path.write_text("a longer text that was there before")
    atomic_write(path, content)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_other_new_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "atomic", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_old_file_can_be_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        atomic_write(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise Failure

    with pytest.raises(Failure):
        write()
    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(path, "old")]


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parent in ("missing", "file"):
        with pytest.raises(OSError, match=parent):
            atomic_write(tmp_path / parent / "name", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_with_all_its_content(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "parents" / "folder"
    if there:
        path.mkdir(parents=True)
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("content")
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".folder.")
        assert not list(path.glob("*"))
    assert (path / "inner" / "file").read_text() == "content"
    assert [each.name for each in path.parent.iterdir()] == ["folder"]


def test_a_relative_folder_is_where_it_was_when_the_block_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("folder")):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert (tmp_path / "folder").is_dir()


@pytest.mark.parametrize("replace", [False, True])
def test_an_error_leaves_no_folder(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("old")

    def write(path: Path) -> None:
        with atomic_folder(path, replace=replace) as temporary:
            (temporary / "file").write_text("half")
            raise Failure

    for name in ("new", "old") if replace else ("new",):
        with pytest.raises(Failure):
            write(tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "file").read_text() == "old"


def test_a_folder_with_content_is_refused_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("")
    with pytest.raises(FileExistsError, match="folder exists already"), atomic_folder(path):
        pytest.fail("the block must not be entered")
    with atomic_folder(path, replace=True) as temporary:
        (temporary / "new").write_text("")
    assert [each.name for each in path.iterdir()] == ["new"]
    with pytest.raises(FileExistsError), atomic_folder(path / "new"):
        pytest.fail("the block must not be entered")


def test_with_fsync_content_is_flushed_before_the_name(tmp_path: Path, flushed: list[str]) -> None:
    atomic_write(tmp_path / "file", "")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "part").write_text("")
    assert flushed == []
    atomic_write(tmp_path / "file", "", fsync=True)
    with atomic_folder(tmp_path / "folder", fsync=True, replace=True) as temporary:
        (temporary / "part").write_text("")
    assert flushed[0].startswith(".file.")
    assert flushed[1] == "part"
    assert flushed[2].startswith(".folder.")
    assert flushed[3:] == [tmp_path.name]


KILLED = """
import os, sys
from pathlib import Path
from dfml.files import atomic_file, atomic_folder
folder = Path(sys.argv[1])
with atomic_folder(folder / "folder") as first, atomic_file(folder / "file") as second:
    (first / "part").write_text("half")
    second.write_text("half")
    os._exit(1)
"""


def test_what_a_killed_process_leaves_is_hidden_and_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("not ours")
    (tmp_path / "kept.unfinished").write_text("not ours")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    left = {path.name for path in tmp_path.iterdir()} - {".hidden", "kept.unfinished"}
    assert len(left) == 2
    assert all(name.startswith((".folder.", ".file.")) and name.endswith(".unfinished") for name in left)
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "kept.unfinished"}
    remove_unfinished(tmp_path / "missing")


def test_tensors_of_any_layout_are_written_with_their_header(tmp_path: Path) -> None:
    tensors = {"transposed": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(1, dtype=torch.int64)}
    save_tensors(tensors, tmp_path / "file", {"name": "value"})
    loaded = load_file(tmp_path / "file")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "name": "value"}
    with pytest.raises(OSError, match="missing"):
        save_tensors(tensors, tmp_path / "missing" / "file")


def test_the_module_is_light() -> None:
    check = "import sys; import dfml.files; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_a_file_is_opened_on_a_system_without_nonblocking_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK")
    (tmp_path / "model").write_bytes(b"a\r\nb")
    with open_regular_file(tmp_path / "model") as file:
        assert file.read() == b"a\r\nb"


def test_writing_flushes_no_folder_where_none_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_file = os.open

    def record(path: Path, flags: int, **options: int) -> int:
        opened.append(Path(path).name)
        return open_file(path, flags, **options)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", record)
    with atomic_folder(tmp_path / "folder", fsync=True) as folder:
        (folder / "file").write_text("text")
    assert (tmp_path / "folder" / "file").read_text() == "text"
    assert opened == ["file"]


def test_a_folder_that_cannot_be_deleted_whole_leaves_nothing_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt(path)

    monkeypatch.setattr("dfml.files.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    assert not folder.exists()
    monkeypatch.undo()
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())
