from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dfml.errors import RunError
from dfml.training import checkpoint
from dfml.training.checkpoint import State, list_checkpoints, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def state(value: float) -> State:
    return State({"weights": torch.full((5, 5), value)}, {"switch": {"on": True, "best": 0.1 + 0.2}})


def test_tensors_and_values_are_read_with_the_same_bits(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, state(1 / 3))
    iteration, loaded = load_checkpoint(path, CPU)
    assert iteration == 7
    assert torch.equal(loaded.tensors["weights"], state(1 / 3).tensors["weights"])
    assert loaded.values == state(1 / 3).values


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (1, 2, 1_000_000, 999_999):
        save_checkpoint(tmp_path, iteration, state(iteration), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["999999", "1000000"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 1, state(0.0))
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(path, CPU)


@pytest.mark.parametrize("version", [2, None])
def test_a_checkpoint_of_another_format_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", version)
    path = save_checkpoint(tmp_path, 1, state(0.0))
    with pytest.raises(RunError, match=r"checkpoint .*000001: expected format version 1, found .*create it again"):
        load_checkpoint(path, CPU)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save_checkpoint(tmp_path, 1, state(1.0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, state(2.0))
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert load_checkpoint(good, CPU)[0] == 1


def test_what_a_killed_writer_has_left_is_ignored_and_removed(tmp_path: Path) -> None:
    left = tmp_path / ".000002.0123.unfinished"
    shutil.copytree(save_checkpoint(tmp_path, 1, state(1.0)), left)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000001"]
    save_checkpoint(tmp_path, 2, state(2.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "000002"]


WRITER = """
import sys, torch
from pathlib import Path
from dfml.training.checkpoint import State, save_checkpoint
folder = Path(sys.argv[1])
for iteration in range(1, 100000):
    tensors = {"weights": torch.full((400, 400), float(iteration))}
    save_checkpoint(folder, iteration, State(tensors, {}))
    print(iteration, flush=True)
"""


@pytest.mark.slow
def test_after_a_kill_at_any_time_a_complete_checkpoint_remains(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    for trial in range(8):
        if trial:
            process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * trial)  # not a wait for something: the moment of the kill is what varies
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        newest = list_checkpoints(tmp_path)[-1]
        iteration, loaded = load_checkpoint(newest, CPU)
        assert torch.all(loaded.tensors["weights"] == iteration)
        assert json.loads((newest / "state.json").read_text())["iteration"] == iteration
