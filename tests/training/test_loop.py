from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml

from dfml.errors import RunError, UsageError
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.base import MetaLearner
from dfml.training import loop
from dfml.training.checkpoint import State
from dfml.training.device import select_device
from dfml.training.loop import Interrupted, TrainingConfig, TrainingRun, restore, train
from dfml.training.progress import PlainProgress, clock
from dfml.training.run_folder import RunFolder
from tests.factories import PREPROCESSING


class Counting(TrainingRun):
    """Adds up the iterations; `after` is called at the end of each step."""

    def __init__(self, iterations: int, after: dict[int, object] | None = None) -> None:
        self.iterations = iterations
        self.total = torch.zeros(1)
        self.after = after or {}

    def step(self, iteration: int) -> Mapping[str, float]:
        self.total = self.total + iteration
        action = self.after.get(iteration)
        if callable(action):
            action()
        return {"outer_loss": float("nan") if action == "diverge" else self.total.item()}

    def state_dict(self) -> State:
        return State({"total": self.total})

    def load_state_dict(self, state: State) -> None:
        self.total = state.tensors["total"]

    def learner(self) -> MetaLearner:
        learner = create_learner(LearnerConfig(), PREPROCESSING, way=3)
        learner.parameters["head.bias"] = self.total.expand(3)
        return learner


CONFIG = TrainingConfig(iterations=10, checkpoint_every=4, snapshot_every=5)
ABOUT = {"method": "counting", "counting": {"iterations": 10, "weights": {"l2": 0.1}}}


def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create(ABOUT)
    return made


def total(learner: MetaLearner) -> float:
    return learner.parameters["head.bias"][0].item()  # type: ignore[attr-defined,no-any-return]


def test_leaves_metrics_snapshots_checkpoints_and_the_learner(tmp_path: Path) -> None:
    place = folder(tmp_path)
    train(Counting(10), CONFIG, folder=place)
    assert [row["iteration"] for row in place.read_metrics()] == list(range(1, 11))
    assert place.read_metrics()[-1]["outer_loss"] == 55
    assert sorted(p.name for p in place.snapshots.iterdir()) == ["000005", "000010"]
    assert total(MetaLearner.from_pretrained(place.snapshots / "000005")) == 15
    assert sorted(p.name for p in place.checkpoints.iterdir()) == ["000008", "000010"]
    assert total(MetaLearner.from_pretrained(place.path)) == 55
    assert yaml.safe_load((place.path / "config.yaml").read_text()) == {"format_version": 1, **ABOUT}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_resuming_ends_the_same(tmp_path: Path, number: int, code: int) -> None:
    place = folder(tmp_path)
    interrupted = Counting(10, {6: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(Interrupted) as caught:
        train(interrupted, CONFIG, folder=place)
    assert caught.value.exit_code == code
    assert not (place.path / "model.safetensors").exists()
    newest = place.newest_checkpoint()
    assert newest is not None
    assert newest.name == "000006"
    learner = train(Counting(10), CONFIG, folder=place, resume=True)
    assert total(learner) == 55
    assert [row["iteration"] for row in place.read_metrics()] == list(range(1, 11))


def test_after_a_crash_metrics_beyond_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    place = folder(tmp_path)

    def crash() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(Counting(10, {7: crash}), CONFIG, folder=place)
    with place.metrics.open("a") as file:
        file.write('{"iteration": 7, "outer_l')  # a line that was cut short
    assert total(train(Counting(10), CONFIG, folder=place, resume=True)) == 55
    assert [row["iteration"] for row in place.read_metrics()] == list(range(1, 11))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    place = folder(tmp_path)
    train(Counting(10), CONFIG, folder=place)
    before = place.metrics.read_bytes()
    assert total(train(Counting(10), CONFIG, folder=place, resume=True)) == 55
    assert place.metrics.read_bytes() == before


def test_a_run_can_begin_from_a_checkpoint_of_another(tmp_path: Path) -> None:
    place = folder(tmp_path)
    train(Counting(10), CONFIG, folder=place)
    other = RunFolder(tmp_path / "other")
    other.create(ABOUT)
    run = Counting(12)
    done = restore(run, place.checkpoints / "000008", torch.device("cpu"))
    assert total(train(run, CONFIG, folder=other, done=done)) == 78
    assert [row["iteration"] for row in other.read_metrics()] == [9, 10, 11, 12]


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path: Path) -> None:
    place = folder(tmp_path)
    with pytest.raises(RunError, match="outer_loss is not finite at meta-iteration 6"):
        train(Counting(10, {6: "diverge"}), CONFIG, folder=place)
    assert place.read_metrics()[-1]["iteration"] == 5
    newest = place.newest_checkpoint()
    assert newest is not None
    assert newest.name == "000004"


def test_a_full_disk_is_one_line_and_the_run_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path)
    save = loop.save_checkpoint

    def full(path: Path, iteration: int, state: State) -> Path:
        if iteration == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, iteration, state)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(RunError, match=r"No space left on device.*--resume"):
        train(Counting(10), CONFIG, folder=place)
    monkeypatch.undo()
    assert total(train(Counting(10), CONFIG, folder=place, resume=True)) == 55


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(RunError, match="not empty"):
        RunFolder(tmp_path / "run").create(ABOUT)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        RunFolder(tmp_path / "file").create(ABOUT)


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    place = folder(tmp_path)
    place.check(ABOUT)
    changed = {"method": "counting", "counting": {"iterations": 10, "weights": {"l2": 0.2}}}
    with pytest.raises(RunError, match=r"counting\.weights\.l2 0\.1 -> 0\.2"):
        place.check(changed)
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path / "elsewhere").check(ABOUT)


def test_plain_progress_tells_the_time_left_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress("train", 4, interval=0.0) as progress:
        progress.update(3, {"accuracy": 0.5})
        progress.update(4, {})
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("train 3/4  accuracy 0.5")
    assert last.startswith("train 4/4  0:00 left")
    assert (clock(61.0), clock(3723.0)) == ("1:01", "1:02:03")


def test_devices_that_do_not_exist_are_refused() -> None:
    assert select_device("cpu") == torch.device("cpu")
    for name in ("abacus", "cuda:99"):
        with pytest.raises(UsageError, match="cannot be used"):
            select_device(name)
