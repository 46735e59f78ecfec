"""Files whose cost no header shows are read in a child process first, which is ended where it exceeds its bounds."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dfml.errors import ZooMemberError
from dfml.zoo import trial
from dfml.zoo.checkpoint_files import read_checkpoint
from tests.zoo.hostile.pickles import DOUBLED, tensor


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    trial.end_child()


def hashed_forever(path: Path) -> Path:
    """A pickle of a dictionary with a tuple of 2^60 values as a key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + DOUBLED + b"}" + tensor() + b"sh\x3cK\x01s.")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", struct.pack("<16f", *range(16)))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the deadline only, which is ten times as long")
def test_a_file_that_takes_forever_is_refused_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TIME", 1)
    bad, good = hashed_forever(tmp_path / "bad.pth"), tmp_path / "good.pth"
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}, good)
    for _ in range(2):  # the second time nothing is tried
        with pytest.raises(ZooMemberError, match=r"bad\.pth: reading it takes more than 1 seconds of processor time"):
            read_checkpoint(bad)
    assert set(read_checkpoint(good).state_dict) == {"fc.weight", "fc.bias"}


@pytest.mark.slow
def test_a_file_that_passed_is_not_tried_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}, path)
    read_checkpoint(path)

    def fail(*_: object) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr(trial, "_ask", fail)
    read_checkpoint(path)
    torch.save({"fc.weight": torch.ones(2, 4), "fc.bias": torch.zeros(2)}, path)
    with pytest.raises(AssertionError, match="tried"):
        read_checkpoint(path)


def test_the_child_imports_nothing_from_the_folder_that_a_command_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Process:
        returncode = 1

        def __init__(self, arguments: list[str], **_: object) -> None:
            started.append(arguments)
            raise OSError("not started")

    monkeypatch.setattr(trial.subprocess, "Popen", Process)
    monkeypatch.setattr(trial, "_child", None)
    monkeypatch.setattr(sys, "path", ["", ".", "relative", str(tmp_path)])
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match="not started"):
        trial.try_first("checkpoint", tmp_path / "file")
    (arguments,) = started
    assert arguments[1:3] == ["-P", "-c"]
    assert f"sys.path[:] = [{str(tmp_path)!r}];" in arguments[3]


def test_the_child_itself_tries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_in_child", False)
    trial.enter_child()
    trial.try_first("checkpoint", tmp_path / "no such file")
