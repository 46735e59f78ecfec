"""What every inversion engine is: it starts on members, steps, and gives images.

An `Engine` lasts as long as a run and keeps what it learns from one member for the next (FIVE's generator, the memory
of CMI). A `InversionRun` is one visit to one or several members.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.inversion.loss import InversionLoss, Student
from dfml.zoo.pretrained import PretrainedClassifier

StudentRowLogits = Callable[[Tensor, Tensor | None], Tensor]
"""(images, a target's `rows`) -> the student's logits for the outputs of that target's member."""


@dataclass(frozen=True)
class Target:
    """What is to be recovered from one member.

    Attributes:
        name: The member's; what an engine remembers of a member, it remembers under this name.
        classifier: The member.
        labels: For every image, the output that it is to be of.
        rows: For the student: which rows of its head stand for the member's outputs; None where no student is asked.
    """

    name: str
    classifier: PretrainedClassifier
    labels: Int64[Tensor, " images"]
    rows: Int64[Tensor, " outputs"] | None = None


EmaStatistics = tuple[Tensor, ...]
"""Mean and variance of every batch-norm layer of a member, over some of its images."""


class InversionRun(ABC):
    """One visit to some members.

    Attributes:
        targets: What is being recovered.
        done: Steps taken.
        earlier: For every target the statistics of earlier visits' images, which this visit's are drawn towards; empty
            without momentum, or at a first visit.
        ema_statistics: The same with this visit's images among them.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        student: StudentRowLogits | None = None,
        earlier: Sequence[EmaStatistics] | None = None,
    ) -> None:
        self.targets = tuple(targets)
        self.done = 0
        self.earlier: tuple[EmaStatistics, ...] = tuple(earlier or [()] * len(self.targets))
        self.ema_statistics: list[EmaStatistics] = list(self.earlier)
        self._student = student

    @abstractmethod
    def step(self) -> list[InversionLoss]:
        """One step of the optimiser for every target; returns the losses before it."""

    @abstractmethod
    def images(self) -> list[Float[Tensor, "_images 3 _size _size"]]:
        """For every target its images as they stand, after all steps: in [0, 1], attached to no graph."""

    def student_for(self, rows: Tensor | None) -> Student | None:
        """The student as the loss of a target with these `rows` wants it."""
        student = self._student
        return None if student is None else lambda images: student(images, rows)


class Engine(ABC):
    """A way to recover images.

    Attributes:
        steps: Of a visit, unless the caller knows better.
    """

    steps: int

    @abstractmethod
    def start(
        self, targets: Sequence[Target], visit: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """Begin a visit to some members.

        Args:
            targets: What is to be recovered.
            visit: Its number: draws differ from visit to visit, and are the same when a visit is repeated.
            student: Whom the images should be hard for.
        """

    def learn(self, recovery: InversionRun, kept: Sequence[int] | None = None) -> None:  # noqa: B027
        """Keep what a visit has taught for later ones.

        Args:
            recovery: Of `start`, after its steps.
            kept: The targets to learn from; None: all.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What the engine has learned so far, for a checkpoint."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """The inverse of `state`."""


class StatisticsMemory:
    """Batch-norm statistics of the images that were recovered from each member so far, for the momentum."""

    def __init__(self) -> None:
        self._of: dict[str, EmaStatistics] = {}

    def of(self, targets: Sequence[Target]) -> list[EmaStatistics]:
        """For every target; empty for a member that was never visited."""
        return [self._of.get(target.name, ()) for target in targets]

    def keep(self, recovery: InversionRun, kept: Sequence[int] | None) -> None:
        """Remember a visit; see `Engine.learn`."""
        for index in range(len(recovery.targets)) if kept is None else kept:
            if recovery.ema_statistics[index]:
                self._of[recovery.targets[index].name] = recovery.ema_statistics[index]

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        each = self._of.items()
        return {f"ema_statistics.{name}.{i}": value for name, parts in each for i, value in enumerate(parts)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; ignores others."""
        prefixes = Counter(key.rpartition(".")[0] for key in tensors if key.startswith("ema_statistics."))
        self._of = {
            prefix.removeprefix("ema_statistics."): tuple(tensors[f"{prefix}.{index}"] for index in range(count))
            for prefix, count in prefixes.items()
        }


def recover(engine: Engine, targets: Sequence[Target], visit: int = 0) -> list[Float[Tensor, "_images 3 _size _size"]]:
    """Recover images in the engine's own number of steps; the engine learns nothing from it.

    For members that an engine was meta-trained on, and for newcomers alike.
    """
    recovery = engine.start(targets, visit)
    for _ in range(engine.steps):
        recovery.step()
    return recovery.images()


def balanced_labels(outputs: int, per_class: int, device: torch.device | str = "cpu") -> Int64[Tensor, " images"]:
    """`per_class` images of every output, class by class."""
    return torch.arange(outputs, device=device).repeat_interleave(per_class)
