"""The interface of inversion engines: an engine starts a run on some members, the run steps and gives images.

An `Engine` lasts as long as a training and carries what it learns from one round to the next (the generator of FIVE,
the memory of CMI). An `InversionRun` is the inversion of one or several members within one round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.inversion.loss import InversionLoss, StudentLogits
from dfml.zoo.members import Predicts
from dfml.zoo.pretrained import PretrainedClassifier

StudentRowLogits = Callable[[Tensor, Tensor | None], Tensor]
"""(images, `Target.rows`) -> the student's logits for the outputs of the target's member."""

Losses = list[list[InversionLoss]]
"""Losses before each step, for every target."""

EmaStatistics = tuple[Tensor, ...]
"""Moving averages of the mean and variance of every batch-norm layer of a member, alternating."""


@dataclass(frozen=True)
class Target:
    """What is to be recovered from one member.

    Attributes:
        name: Name of the member; an engine stores what belongs to a member under it.
        classifier: The member.
        labels: For every image the output of the member that it is assigned to.
        rows: Rows of the student's head that stand for the member's outputs; None without a student.
        images: Only for engines that share pixels (`EngineEntry.shares_pixels`): for every entry of `labels`, the index
            of the image within one set that all targets of a run have in common. None: the target has images of its
            own.
        steps: Largest number of steps for this target (`dfml.inversion.time_budget`); it keeps its images in further
            ones. In engines that share pixels, the largest number of steps in which its member takes part. None: no
            other limit than that of the run.
    """

    name: str
    classifier: Predicts
    labels: Int64[Tensor, " images"]
    rows: Int64[Tensor, " outputs"] | None = None
    images: Int64[Tensor, " images"] | None = None
    steps: int | None = None

    @property
    def network(self) -> PretrainedClassifier:
        """The member as a `PretrainedClassifier`.

        Raises:
            TypeError: If it is none. An engine that uses this property declares `EngineEntry.needs` as
                `PretrainedClassifier`, so that no other member is a target.
        """
        if not isinstance(self.classifier, PretrainedClassifier):
            raise TypeError(
                f"expected {self.name} to be a PretrainedClassifier, found {type(self.classifier).__name__}; "
                "declare it in EngineEntry.needs"
            )
        return self.classifier


class InversionRun(ABC):
    """The inversion of some members in one round.

    Attributes:
        targets: What is being recovered.
        done: Number of steps taken.
        previous_statistics: For every target the EMA statistics of earlier rounds' images; empty without momentum, or
            in a member's first round.
        ema_statistics: The same with this round's images included.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        student: StudentRowLogits | None = None,
        previous_statistics: Sequence[EmaStatistics] | None = None,
    ) -> None:
        self.targets = tuple(targets)
        self.done = 0
        self.previous_statistics: tuple[EmaStatistics, ...] = tuple(previous_statistics or [()] * len(self.targets))
        self.ema_statistics: list[EmaStatistics] = list(self.previous_statistics)
        self._student = student

    @abstractmethod
    def step(self) -> list[InversionLoss]:
        """Take one optimiser step for every target and return the losses before it, detached."""

    def take_steps(self, count: int, on_step: Callable[[list[InversionLoss]], None] | None = None) -> Losses:
        """Take several steps, fewer if the run is finished; return the losses before each, one list per step.

        Args:
            count: Largest number of steps.
            on_step: Called with the losses of every step.
        """
        history = []
        for _ in range(count):
            if self.finished:
                break
            history.append(self.step())
            if on_step:
                on_step(history[-1])
        return history

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, for runs that decide it themselves; False here: `Engine.steps` decides."""
        return False

    @abstractmethod
    def images(self) -> list[Float[Tensor, "_images 3 _size _size"]]:
        """The current images of every target, in the order of its labels: in [0, 1], without a graph."""

    def student_for(self, rows: Tensor | None) -> StudentLogits | None:
        """The student as a function of images alone, for a target with these `rows`; None without a student."""
        student = self._student
        return None if student is None else lambda images: student(images, rows)


class Engine(ABC):
    """A method of recovering images from classifiers.

    Attributes:
        steps: Largest number of steps of a run, unless the caller chooses another.
        memory_limit: Memory in bytes that one backward pass through a member may take, as far as the engine can
            keep it (`dfml.inversion.chunked_gradient.images_per_pass`); `create_engine` sets it from the settings.
        queries_per_image: Number of images that a run of all steps queries a member with for every recovered one, in
            engines that need predictions only; 0 in those that need gradients.
    """

    steps: int
    queries_per_image: int = 0
    memory_limit: int = 2**31

    @abstractmethod
    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """Start to recover images from some members.

        Args:
            targets: What is to be recovered.
            round_index: Number of the round. Random draws differ between rounds and repeat when a round is repeated.
            student: Student logits; images maximise the divergence between member and student. None disables the term.
        """

    def learn(self, run: InversionRun, kept: Sequence[int] | None = None) -> None:  # noqa: B027
        """Update the engine with what a run has found.

        Args:
            run: A run of `start`, after its steps.
            kept: Indices of the targets to learn from; None: all.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the engine has learned, as named tensors for a checkpoint."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


class StatisticsMemory:
    """EMA of the batch-norm statistics of each member's recovered images, for the momentum (FastDFKD)."""

    PREFIX = "ema_statistics."

    def __init__(self) -> None:
        self._by_member: dict[str, EmaStatistics] = {}

    def get(self, targets: Sequence[Target]) -> list[EmaStatistics]:
        """The statistics of every target's member; empty before its first round."""
        return [self._by_member.get(target.name, ()) for target in targets]

    def update(self, run: InversionRun, kept: Sequence[int] | None) -> None:
        """Store the statistics of a run; see `Engine.learn`."""
        for index in range(len(run.targets)) if kept is None else kept:
            if run.ema_statistics[index]:
                self._by_member[run.targets[index].name] = run.ema_statistics[index]

    def state_dict(self) -> dict[str, Tensor]:
        """Named tensors for a checkpoint, `ema_statistics.MEMBER.N`."""
        members = self._by_member.items()
        return {f"{self.PREFIX}{name}.{i}": value for name, parts in members for i, value in enumerate(parts)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; other tensors are ignored."""
        prefixes = Counter(key.rpartition(".")[0] for key in tensors if key.startswith(self.PREFIX))
        self._by_member = {
            prefix.removeprefix(self.PREFIX): tuple(tensors[f"{prefix}.{index}"] for index in range(count))
            for prefix, count in prefixes.items()
        }


def recover(
    engine: Engine, targets: Sequence[Target], round_index: int = 0
) -> list[Float[Tensor, "_images 3 _size _size"]]:
    """Recover images in the engine's own number of steps; the engine learns nothing from it.

    Works for members that an engine was meta-trained on and for new ones alike.
    """
    run = engine.start(targets, round_index)
    run.take_steps(engine.steps)
    return run.images()


def balanced_labels(outputs: int, per_class: int, device: torch.device | str = "cpu") -> Int64[Tensor, " images"]:
    """Labels of `per_class` images of every output, output by output."""
    return torch.arange(outputs, device=device).repeat_interleave(per_class)
