"""The results of a quickstart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from dfml.demo.settings import QuickstartSettings
from dfml.evaluation.protocol import Difference, Evaluation, compare
from dfml.pretraining import BuiltMember
from dfml.training.loop import MetricDescription


@dataclass(frozen=True)
class RecoveredClass:
    """Images of one class of a member: recovered by a method, and real.

    Attributes:
        label: Name of the class.
        recovered: The newest images that the method recovered, in [0, 1]; may be empty.
        real: Images from the member's training set, in [0, 1].
    """

    label: str
    recovered: Float[Tensor, "recovered 3 size size"]
    real: Float[Tensor, "real 3 size size"]


@dataclass(frozen=True)
class NewTask:
    """One task of unseen classes, and the predictions of a classifier adapted to it.

    Attributes:
        classes: Names of the classes.
        support_images: Support images in [0, 1], class by class.
        support_labels: Index of each support image into `classes`.
        query_images: Query images in [0, 1], class by class.
        query_labels: Index of each query image into `classes`.
        probabilities: Predicted probability of every class for every query image.
    """

    classes: tuple[str, ...]
    support_images: Float[Tensor, "support 3 size size"]
    support_labels: Int64[Tensor, " support"]
    query_images: Float[Tensor, "query 3 size size"]
    query_labels: Int64[Tensor, " query"]
    probabilities: Float[Tensor, "query way"]

    @property
    def correct(self) -> int:
        """Number of query images whose predicted class is the true one."""
        return int((self.probabilities.argmax(dim=1) == self.query_labels).sum())


@dataclass(frozen=True)
class Training:
    """The course of one method's training.

    Attributes:
        curve: Meta-iteration -> evaluation; at 0 the untrained network of `random_embedding`.
        metrics: Lines of the run's `metrics.jsonl`, one per meta-iteration.
        descriptions: The run's descriptions of its metrics.
        recovered: Per member, per class: the images that the run had recovered at the end.
    """

    curve: dict[int, Evaluation]
    metrics: tuple[dict[str, Any], ...]
    descriptions: Mapping[str, MetricDescription]
    recovered: tuple[tuple[RecoveredClass, ...], ...]

    def curve_in_seconds(self) -> dict[float, Evaluation]:
        """Map seconds of training to evaluations, so that methods with different meta-iterations can be compared."""
        seconds = [0.0, *accumulate(row["seconds"] for row in self.metrics)]
        return {seconds[iteration]: evaluation for iteration, evaluation in self.curve.items()}


@dataclass(frozen=True)
class QuickstartResult:
    """Everything that a quickstart measured.

    Attributes:
        seed: Seed of all random draws.
        settings: Settings of the quickstart.
        members: The zoo's members.
        trainings: Method -> its training.
        evaluations: Evaluations of the methods of `trainings`, in their order, then of the baselines, all on the same
            episodes.
        task: One new task, solved by the first method.
        training_seconds: Method -> duration of its training, without the zoo's.
        stored_bytes: Method -> size of the weights that it needs at test time, in bytes.
        stages: Stage -> duration in seconds.
    """

    seed: int
    settings: QuickstartSettings
    members: tuple[BuiltMember, ...]
    trainings: dict[str, Training]
    evaluations: tuple[Evaluation, ...]
    task: NewTask
    training_seconds: dict[str, float]
    stored_bytes: dict[str, int]
    stages: dict[str, float]

    @property
    def trained(self) -> tuple[Evaluation, ...]:
        """Evaluations of the methods that were trained."""
        return self.evaluations[: len(self.trainings)]

    @property
    def baselines(self) -> tuple[Evaluation, ...]:
        """Evaluations of the other methods."""
        return self.evaluations[len(self.trainings) :]

    @property
    def differences(self) -> list[Difference]:
        """Paired differences between each method that was trained and all methods after it."""
        return [
            compare(first, second)
            for index, first in enumerate(self.trained, start=1)
            for second in self.evaluations[index:]
        ]
