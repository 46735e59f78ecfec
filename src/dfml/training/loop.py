"""The loop: steps, metrics, snapshots, checkpoints, interruption. It knows nothing of any method."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from dfml.errors import RunError
from dfml.files import shape_mismatch
from dfml.inversion.registry import LearnedEngine
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.settings import FrozenSettings
from dfml.training.checkpoint import State, load_checkpoint, save_checkpoint
from dfml.training.device import keep_freed_memory
from dfml.training.progress import Progress, SilentProgress
from dfml.training.run_folder import RunFolder


class TrainingConfig(FrozenSettings):
    """What every trained method has."""

    way: PositiveInt = 5
    """Classes an episode."""
    shot: PositiveInt = 1
    """Support images a class."""
    query: PositiveInt = 15
    """Query images a class."""
    protocol: ProtocolName = "strict"
    """`strict`: no answer depends on other query images. `paper`: batch-norm normalises them by each other."""
    seed: NonNegativeInt = 0
    """Of all random draws."""
    iterations: NonNegativeInt = 60_000
    """Meta-iterations."""
    snapshot_every: PositiveInt = 500
    """Meta-iterations between saved learners (for learning curves, and the `paper` protocol)."""
    checkpoint_every: PositiveInt = 500
    """Meta-iterations between checkpoints, from which `--resume` and `--from` go on."""


@dataclass(frozen=True)
class MetricDescription:
    """How one metric of `TrainingRun.step` is shown by the progress display and on the report page.

    Attributes:
        title: Label of its axis, such as "outer loss".
        caption: One sentence that says what it measures, in which unit.
        panel: Metrics with the same panel share one plot; None: a plot of its own.
        percent: The metric is a fraction and is drawn in percent, on a linear axis.
        logarithmic: Draw on a logarithmic axis as long as no value is negative.
        arrow_to: Another metric of the same rows; each row that has both is drawn as an arrow from this metric to that
            one instead of as a curve (a single update that is worth seeing before and after).
        headline: Show the metric while training.
    """

    title: str
    caption: str = ""
    panel: str | None = None
    percent: bool = False
    logarithmic: bool = True
    arrow_to: str | None = None
    headline: bool = False


class TrainingRun(ABC):
    """The state of a method during training, and how one meta-iteration changes it.

    Loop, report page and `dfml invert --from` know no method by name: whatever they show of one, its run offers through
    `describe_metrics`, `images` and `learned_engine`.

    Attributes:
        iterations: Number of meta-iterations; 0 for a method that does not train.
        images_caption: Where the images of `images` come from, for captions.
    """

    iterations: int = 0
    images_caption: str = "Recovered images"

    def step(self, iteration: int) -> Mapping[str, float]:
        """Run one meta-iteration, counted from 1, and return its metrics. Depends on the state and `iteration` only."""
        raise TypeError(f"{type(self).__name__} does not train")

    def pop_messages(self) -> list[str]:
        """Return and forget what happened since the last call that a user should know, such as an excluded member."""
        return []

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """Descriptions of the metrics that `step` returns; one without is drawn if its name ends in `_loss`."""
        return {}

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """The newest images that the run has recovered of one class of the zoo.

        Args:
            class_index: Index into `Zoo.classes.names`.
            count: The largest number of images wanted.

        Returns:
            Images in [0, 1] on the CPU; none (the default) where the run keeps no images of that class.
        """
        return torch.empty(0, 3, 1, 1)

    def learned_engine(self) -> LearnedEngine | None:
        """The inversion engine that the run has meta-trained, for `dfml invert --from`; None if there is none.

        Its tensors must be part of `state_dict`, under the prefix `engine.`: a checkpoint stores them once.
        """
        return None

    def state_dict(self) -> State:
        """Everything that `load_state_dict` needs to continue the run."""
        return State()

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Continue from a state."""

    @abstractmethod
    def learner(self) -> MetaLearner:
        """The learner as it stands; shares no memory that later steps write to."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state is in a checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def restore(run: TrainingRun, checkpoint: Path, device: torch.device) -> int:
    """Bring a run to the state of a checkpoint; returns the meta-iterations that it has behind it.

    Raises:
        RunError: If the checkpoint is damaged, or holds what another method, way, backbone or number of members has.
    """
    iteration, state = load_checkpoint(checkpoint, device)
    expected = run.state_dict()
    wrong = shape_mismatch(state.tensors, expected.tensors, expected.any_length)
    if wrong:
        raise RunError(
            f"checkpoint {checkpoint} does not fit this run: {wrong}; "
            "use the same zoo, method, way and backbone, and engine, memory and heads of the same size"
        )
    run.load_state_dict(state)
    return iteration


def train(
    run: TrainingRun,
    config: TrainingConfig,
    *,
    folder: RunFolder | None = None,
    resume: bool = False,
    done: int = 0,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> MetaLearner:
    """Run to the end.

    Args:
        run: The method at work.
        config: Its schedule.
        folder: Where metrics, snapshots, checkpoints and the learner go; None keeps nothing.
        resume: Continue from the newest checkpoint in the folder, if there is one.
        done: Meta-iterations that the run has behind it already (see `restore`).
        progress: Told about every meta-iteration.
        device: Where checkpoints are loaded to.

    Returns:
        The learner of the last meta-iteration.

    Raises:
        RunError: If a checkpoint is damaged, a loss is not finite, or the disk is full. What was written stays valid.
        Interrupted: After SIGINT or SIGTERM, once the state is saved.
    """
    device = device or torch.device("cpu")
    if folder and resume:
        newest = folder.newest_checkpoint()
        done = restore(run, newest, device) if newest else done
        folder.truncate_metrics(done)
    if device.type == "cpu":
        keep_freed_memory()
    with _disk(folder), _stop_signals() as stopped, progress or SilentProgress() as shown:
        for iteration in range(done + 1, run.iterations + 1):
            began = time.perf_counter()
            try:
                metrics = dict(run.step(iteration))
            except RunError:
                for note in run.pop_messages():
                    shown.note(note)
                raise
            metrics["seconds"] = time.perf_counter() - began
            _require_finite(metrics, iteration)
            notes = run.pop_messages()
            for note in notes:
                shown.note(note)
            if folder:
                folder.append_metrics({"iteration": iteration, **metrics, **({"notes": notes} if notes else {})})
                if iteration % config.snapshot_every == 0 or iteration == run.iterations:
                    run.learner().save_pretrained(folder.snapshots / f"{iteration:06d}")
                if iteration % config.checkpoint_every == 0 or iteration == run.iterations or stopped:
                    save_checkpoint(folder.checkpoints, iteration, run.state_dict())
            shown.update(iteration, _worth_showing(metrics))
            if stopped:
                break
        if stopped:
            raise Interrupted(stopped[0])
        learner = run.learner()
        if folder:
            learner.save_pretrained(folder.path)
    return learner


def _worth_showing(metrics: dict[str, Any]) -> dict[str, float]:
    known = ("outer_loss", "distillation_loss", "accuracy", "inversion_loss", "reconstruction_loss")
    return {name: metrics[name] for name in known if name in metrics}


def _require_finite(metrics: dict[str, float], iteration: int) -> None:
    bad = [name for name, value in metrics.items() if value != value or value in (float("inf"), float("-inf"))]
    if bad:
        raise RunError(
            f"{bad[0]} is not finite at meta-iteration {iteration}; lower the learning rates, or look for a bad member "
            "with `dfml zoo inspect`. The last checkpoint is intact"
        )


@contextmanager
def _disk(folder: RunFolder | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = folder.path if folder else "the disk"
        reason = error.strerror or str(error)
        raise RunError(f"{where} cannot be written ({reason}); make room and continue with --resume") from error


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Within the context, SIGINT and SIGTERM are noted instead of raised, so that a step is never cut in half.

    A second one is not patient any more.
    """
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
