"""The training loop of all methods: steps, metrics, snapshots, checkpoints, interruption by a signal."""

from __future__ import annotations

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
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
from dfml.training.engine_checkpoint import add_learned_engine
from dfml.training.progress import Progress, SilentProgress
from dfml.training.run_folder import RunFolder

OnIteration = Callable[[int, Mapping[str, float]], None]
"""Called after a meta-iteration with its number, counted from 1, and its metrics."""


class TrainingConfig(FrozenSettings):
    """Settings that every method has."""

    way: PositiveInt = 5
    """Number of classes per episode."""
    shot: PositiveInt = 1
    """Number of support images per class."""
    query: PositiveInt = 15
    """Number of query images per class."""
    protocol: ProtocolName = "strict"
    """`strict`: the prediction for a query image does not depend on other query images. `paper`: batch-norm layers use
    the statistics of all query images together (transductive), as the released code of PURER and FREE does."""
    img_size: PositiveInt | None = None
    """Side length in pixels at which the learner works: of its input, and of the synthetic images that it learns from;
    None: the members' most common input size, the larger one on a tie."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers."""
    iterations: NonNegativeInt = 60_000
    """Number of meta-iterations."""
    snapshot_every: PositiveInt = 500
    """Number of meta-iterations between snapshots of the learner. By the protocol `paper`, `dfml evaluate` evaluates
    all of them and reports the best, as the papers do."""
    checkpoint_every: PositiveInt = 500
    """Number of meta-iterations between checkpoints, from which `--resume` and `--from` continue."""


@dataclass(frozen=True)
class MetricDescription:
    """How one metric of `TrainingRun.step` is shown by the progress display and on the report page.

    Attributes:
        title: Label of its axis, such as "outer loss".
        caption: One sentence that says what it measures, in which unit.
        panel: Metrics with the same panel share one plot; None: a plot of its own.
        percent: Values are fractions and are drawn in percent on a linear axis, from 0 to 100 if all are in [0, 1].
        logarithmic: Draw on a logarithmic axis as long as no value is negative.
        arrow_to: Another metric of the same rows; each row that has both is drawn as an arrow from this metric to that
            one, instead of a curve (for an update whose effect is measured before and after). The other metric needs
            no description of its own.
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

    The loop, the report page and `dfml invert --from` know no method by name. They ask the run what to show, through
    `describe_metrics`, `images` and `learned_engine`.

    Attributes:
        iterations: Number of meta-iterations; 0 for a method that does not train.
        images_caption: Sentence that says where the images of `images` come from, for the report page.
    """

    iterations: int = 0
    images_caption: str = "Recovered images"

    def step(self, iteration: int) -> Mapping[str, float]:
        """Run one meta-iteration.

        The result may depend on the state and on `iteration` only, so that a resumed run ends with the same bits.

        Args:
            iteration: Number of the meta-iteration, counted from 1.

        Returns:
            Metrics of the meta-iteration; all must be finite. A metric whose name ends in `_seconds` is the time that a
            part of the meta-iteration took; the loop adds `seconds`, the time of the whole.
        """
        raise TypeError(f"{type(self).__name__} does not train")

    def pop_messages(self) -> list[str]:
        """Return and forget the messages for the user since the last call, such as that a member is excluded."""
        return []

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """Descriptions of the metrics that `step` returns, by metric, in the order in which they are shown.

        A metric without a description is drawn if its name ends in `_loss`. If there are no descriptions at all, these
        metrics are also shown while training.
        """
        return {}

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """The newest images that the run has recovered for one class of the zoo.

        Args:
            class_index: Index into `Zoo.classes.names`.
            count: Largest number of images.

        Returns:
            Images in [0, 1] on the CPU, newest first; none (the default) if the run keeps no images of that class.
        """
        return torch.empty(0, 3, 1, 1)

    def learned_engine(self) -> LearnedEngine | None:
        """The inversion engine that the run has meta-trained, for `dfml invert --from`; None if there is none.

        Its tensors must be part of `state_dict`, under the prefix `engine.`, so that a checkpoint stores them once.
        """
        return None

    def state_dict(self) -> State:
        """Everything that `load_state_dict` needs to continue the run; tensors need not be copied."""
        return State()

    def convert_state(self, state: State) -> State:
        """The state of another run in the form that this run loads, such as of a run on fewer members.

        Called before shapes are compared.

        Raises:
            RunError: If this run cannot continue from that state; says why.
        """
        return state

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Load a state that `state_dict` returned; the loop has checked that all tensors are there and fit."""

    @abstractmethod
    def learner(self) -> MetaLearner:
        """The learner after the steps so far; it shares no memory that later steps write to."""


class Interrupted(Exception):
    """A signal has stopped the run after a whole meta-iteration; a run with a folder has saved its state there.

    Args:
        number: Number of the signal.

    Attributes:
        exit_code: Exit code of the command: 128 plus the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def restore(run: TrainingRun, checkpoint: Path, device: torch.device) -> int:
    """Load the state of a checkpoint into a run.

    Args:
        run: A new run of the same method, way, backbone and zoo.
        checkpoint: The checkpoint's folder.
        device: Device of the run.

    Returns:
        The number of finished meta-iterations.

    Raises:
        RunError: If the checkpoint is damaged, or its tensors have other shapes than those of the run.
    """
    iteration, state = load_checkpoint(checkpoint, device)
    state = run.convert_state(state)
    expected = run.state_dict()
    mismatch = shape_mismatch(state.tensors, expected.tensors, expected.any_length)
    if mismatch:
        raise RunError(
            f"checkpoint {checkpoint} does not fit this run: {mismatch}; "
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
    on_iteration: OnIteration | None = None,
    device: torch.device | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> MetaLearner:
    """Run all remaining meta-iterations.

    Args:
        run: The run of a method.
        config: Its settings; the loop uses `snapshot_every` and `checkpoint_every`.
        folder: Folder for metrics, snapshots, checkpoints and the learner; None writes nothing.
        resume: Continue from the newest checkpoint in the folder, if there is one, in place of `done`.
        done: Number of meta-iterations that the run has finished already (see `restore`).
        progress: Progress display, which is updated after every meta-iteration; None shows nothing.
        on_iteration: Called after every meta-iteration, when its metrics, snapshot and checkpoint are written.
        device: Device that checkpoints are loaded to; None: the CPU.
        provenance: See `MetaLearner.provenance`; None notes nothing.

    Returns:
        The learner after the last meta-iteration.

    Raises:
        RunError: If a checkpoint is damaged, a metric is not finite, or the disk is full. What was written stays valid.
        Interrupted: After SIGINT or SIGTERM, at the end of the meta-iteration; the state is saved before if there is a
            folder.
    """
    device = device or torch.device("cpu")
    if folder and resume:
        newest = folder.newest_checkpoint()
        done = restore(run, newest, device) if newest else done
        folder.truncate_metrics(done)
    if device.type == "cpu":
        keep_freed_memory()
    descriptions = run.describe_metrics()
    with _disk_errors(folder), _stop_signals() as stopped, progress or SilentProgress() as display:
        for iteration in range(done + 1, run.iterations + 1):
            start = time.perf_counter()
            try:
                metrics = dict(run.step(iteration))
            except RunError:
                _show_messages(run, display)
                raise
            metrics["seconds"] = time.perf_counter() - start
            _require_finite(metrics, iteration)
            messages = _show_messages(run, display)
            stop = bool(stopped)  # read once: a signal that comes later stops the next meta-iteration
            if folder:
                row = {"iteration": iteration, **metrics, **({"messages": messages} if messages else {})}
                folder.append_metrics(row)
                if iteration % config.snapshot_every == 0 or iteration == run.iterations:
                    learner = run.learner()
                    learner.provenance = provenance or {}
                    learner.save_pretrained(folder.snapshots / f"{iteration:06d}")
                if iteration % config.checkpoint_every == 0 or iteration == run.iterations or stop:
                    state = add_learned_engine(run.state_dict(), run.learned_engine())
                    save_checkpoint(folder.checkpoints, iteration, state)
            display.update(iteration, _headline(metrics, descriptions))
            if on_iteration:
                on_iteration(iteration, metrics)
            if stop:
                raise Interrupted(stopped[0])
        learner = run.learner()
        learner.provenance = provenance or {}
        if folder:
            learner.save_pretrained(folder.path)
    return learner


def _show_messages(run: TrainingRun, display: Progress) -> list[str]:
    """Show the run's new messages, and return them."""
    messages = run.pop_messages()
    for message in messages:
        display.message(message)
    return messages


def _headline(metrics: Mapping[str, float], descriptions: Mapping[str, MetricDescription]) -> dict[str, float]:
    """The metrics that are shown while training."""
    names = [name for name, description in descriptions.items() if description.headline]
    if not descriptions:
        names = [name for name in metrics if name.endswith("_loss")]
    return {name: metrics[name] for name in names if name in metrics}


def _require_finite(metrics: Mapping[str, float], iteration: int) -> None:
    not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not_finite:
        raise RunError(
            f"{not_finite[0]} is not finite at meta-iteration {iteration}; lower the learning rates, or look for a "
            "damaged member with `dfml zoo inspect`. The last checkpoint is intact"
        )


@contextmanager
def _disk_errors(folder: RunFolder | None) -> Iterator[None]:
    """Turn errors of the disk within the context into a `RunError` that says how to continue."""
    try:
        yield
    except OSError as error:
        place = folder.path if folder else "the disk"
        reason = error.strerror or str(error)
        raise RunError(f"{place} cannot be written ({reason}); make room and continue with --resume") from error


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM within the context, instead of raising them, so that a step is never cut in half.

    A second signal raises KeyboardInterrupt. Outside of the main thread, where Python allows no signal handlers,
    nothing is recorded.

    Yields:
        Numbers of the recorded signals; empty until one arrives.
    """
    received: list[int] = []

    def record(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
