from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml

from dfml.errors import RunError
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.base import MetaLearner
from dfml.training import loop
from dfml.training.checkpoint import State
from dfml.training.loop import Interrupted, MetricDescription, TrainingConfig, TrainingRun, restore, train
from dfml.training.progress import SilentProgress
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
ABOUT = {"method": "counting", "counting": {"iterations": 10}}


def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create(ABOUT)
    return made


def total(learner: MetaLearner) -> float:
    return learner.parameters["head.bias"][0].item()  # type: ignore[attr-defined,no-any-return]


def test_a_run_writes_metrics_snapshots_checkpoints_and_the_learner(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)
    train(Counting(10), CONFIG, folder=run_folder)
    assert [row["iteration"] for row in run_folder.read_metrics()] == list(range(1, 11))
    assert run_folder.read_metrics()[-1]["outer_loss"] == 55
    assert sorted(p.name for p in run_folder.snapshots.iterdir()) == ["000005", "000010"]
    assert total(MetaLearner.from_pretrained(run_folder.snapshots / "000005")) == 15
    assert sorted(p.name for p in run_folder.checkpoints.iterdir()) == ["000008", "000010"]
    assert total(MetaLearner.from_pretrained(run_folder.path)) == 55
    assert yaml.safe_load((run_folder.path / "config.yaml").read_text()) == {"format_version": 1, **ABOUT}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_resuming_ends_the_same(tmp_path: Path, number: int, code: int) -> None:
    run_folder = folder(tmp_path)
    interrupted = Counting(10, {6: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(Interrupted) as caught:
        train(interrupted, CONFIG, folder=run_folder)
    assert caught.value.exit_code == code
    assert not (run_folder.path / "model.safetensors").exists()
    newest = run_folder.newest_checkpoint()
    assert newest is not None
    assert newest.name == "000006"
    learner = train(Counting(10), CONFIG, folder=run_folder, resume=True)
    assert total(learner) == 55
    assert [row["iteration"] for row in run_folder.read_metrics()] == list(range(1, 11))


def test_after_a_crash_metrics_beyond_the_checkpoint_are_computed_again(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)

    def crash() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(Counting(10, {7: crash}), CONFIG, folder=run_folder)
    with run_folder.metrics.open("a") as file:
        file.write('{"iteration": 7, "outer_l')  # a line that was cut off
    assert total(train(Counting(10), CONFIG, folder=run_folder, resume=True)) == 55
    assert [row["iteration"] for row in run_folder.read_metrics()] == list(range(1, 11))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)
    train(Counting(10), CONFIG, folder=run_folder)
    before = run_folder.metrics.read_bytes()
    assert total(train(Counting(10), CONFIG, folder=run_folder, resume=True)) == 55
    assert run_folder.metrics.read_bytes() == before


def test_a_run_can_start_from_a_checkpoint_of_another(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)
    train(Counting(10), CONFIG, folder=run_folder)
    other = RunFolder(tmp_path / "other")
    other.create(ABOUT)
    run = Counting(12)
    done = restore(run, run_folder.checkpoints / "000008", torch.device("cpu"))
    assert total(train(run, CONFIG, folder=other, done=done)) == 78
    assert [row["iteration"] for row in other.read_metrics()] == [9, 10, 11, 12]


def test_a_metric_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)
    with pytest.raises(RunError, match="outer_loss is not finite at meta-iteration 6"):
        train(Counting(10, {6: "diverge"}), CONFIG, folder=run_folder)
    assert run_folder.read_metrics()[-1]["iteration"] == 5
    newest = run_folder.newest_checkpoint()
    assert newest is not None
    assert newest.name == "000004"


def test_a_full_disk_is_an_error_in_one_line_and_the_run_can_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = folder(tmp_path)
    save = loop.save_checkpoint

    def full(path: Path, iteration: int, state: State) -> Path:
        if iteration == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, iteration, state)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(RunError, match=r"No space left on device.*--resume"):
        train(Counting(10), CONFIG, folder=run_folder)
    monkeypatch.undo()
    assert total(train(Counting(10), CONFIG, folder=run_folder, resume=True)) == 55


class Described(Counting):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(2)
        self.messages = messages

    def step(self, iteration: int) -> Mapping[str, float]:
        return {"outer_loss": 1.0, "other_loss": 2.0, "accuracy": 0.5, **super().step(iteration)}

    def pop_messages(self) -> list[str]:
        messages, self.messages = self.messages, []
        return messages

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        headline = MetricDescription("accuracy", headline=True)
        return {"missing": headline, "accuracy": headline, "outer_loss": MetricDescription("outer loss")}


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.messages: list[str] = []

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        self.metrics.append(dict(metrics))

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_headline_metrics_are_shown_and_without_descriptions_all_losses() -> None:
    described, plain = Recorder(), Recorder()
    train(Described([]), CONFIG, progress=described)
    assert described.metrics == [{"accuracy": 0.5}] * 2
    train(Counting(2), CONFIG, progress=plain)
    assert plain.metrics == [{"outer_loss": 1.0}, {"outer_loss": 3.0}]


def test_messages_are_shown_and_written_with_the_metrics(tmp_path: Path) -> None:
    run_folder, recorder = folder(tmp_path), Recorder()
    train(Described(["member a is excluded"]), CONFIG, folder=run_folder, progress=recorder)
    assert recorder.messages == ["member a is excluded"]
    first, second = run_folder.read_metrics()
    assert first["messages"] == recorder.messages
    assert "messages" not in second
