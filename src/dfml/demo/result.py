"""What a quickstart is made of: its settings, and all that it finds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from dfml.evaluation.protocol import Evaluation
from dfml.inversion.loss import InversionWeights
from dfml.inversion.meta_generator import FiveConfig
from dfml.inversion.registry import InversionConfig
from dfml.learners import LearnerConfig
from dfml.methods.best_member import BestMemberConfig
from dfml.methods.free import FREE, FreeConfig
from dfml.methods.purer import PURER, PurerConfig
from dfml.methods.zoo_student import ZooStudent, ZooStudentConfig
from dfml.pretraining import STRONG, BuiltMember, Recipe
from dfml.settings import FrozenSettings
from dfml.training.loop import TrainingConfig

_LEARNER = LearnerConfig(kind="protonet")


class QuickstartSettings(FrozenSettings):
    """All that the quickstart chooses, so that it takes about three minutes of one CPU core.

    The letters are small, two-coloured and alike: other settings than the papers' suit them. They were chosen on Latin
    letters that were kept from the zoo for that purpose, not on the Greek and Cyrillic ones that it is judged on; the
    numbers of meta-iterations (with and without curriculum) and episodes are what fits the time.
    """

    image_size: int = 32
    train_images: int = 100
    """Of every Latin letter and digit. With so many, members recognise nearly all held-out images."""
    test_images: int = 40
    """Of every Greek and Cyrillic letter."""
    members: int = 8
    """As many as 43 Latin letters and digits can be shared out to without overlap."""
    recipe: Recipe = STRONG.override(epochs=15, batch_size=64, flip=False)
    """Small sets need more updates an epoch, and a letter in the mirror is another letter. Members that are trained for
    longer are hardly better, and what PURER recovers from them serves it worse."""
    zoo_student: ZooStudentConfig = ZooStudentConfig(
        shot=5,
        iterations=12,
        snapshot_every=4,
        checkpoint_every=12,
        backbone="conv4",
        embedding="features",
        fit="ridge",
        mixed=3,
        members_per_step=1,
        teachers=None,
        student_steps=20,
        batch=128,
        mirror=False,
    )
    """Few members have few answers: the student's features serve better than its answers (83.1% against 79.8% on the
    letters that were kept), and every member is asked about every image. Of letters there is no mirror image."""
    purer: PurerConfig = PurerConfig(
        shot=5,
        query=5,
        iterations=90,
        snapshot_every=30,
        checkpoint_every=45,
        learner=_LEARNER,
        outer_lr=0.01,
        pixel_lr=0.1,
        inversion=InversionWeights(batch_norm=0.1, total_variation=0.01),
        curriculum_weight=0.1,
        warm_up=40,
    )
    free: FreeConfig = FreeConfig(
        shot=5,
        query=5,
        iterations=36,
        snapshot_every=12,
        checkpoint_every=18,
        learner=_LEARNER,
        outer_lr=0.005,
        inversion=InversionConfig(
            five=FiveConfig(
                width=32,
                latent=64,
                lr=0.003,
                latent_lr=0.01,
                outer_lr=0.003,
                weights=InversionWeights(batch_norm=0.1, total_variation=0.0, l2=0.0, jitter=2, wrap=False),
            )
        ),
        members_per_step=2,
        images_per_class=10,
        memory=100,
        warm_up=10,
        replay="fixed",
        replay_steps=4,
        replay_tasks=4,
    )
    """Tasks of PURER's kind. The generator also follows batch-norm statistics, but a little only: with weights of 0.3
    and 1 members are unsure of its images. Disagreement is left out, which would make a step dearer."""
    best_member: BestMemberConfig = BestMemberConfig(shot=5, iterations=3, images_per_class=5)
    """Images of three members, a few of each class: the choice has to be cheap."""
    query: int = 15
    """Query images a class when it is judged."""
    episodes: int = 60
    curve_episodes: int = 40
    """For the points of the learning curves."""
    shown: int = 6
    """Recovered images of a class, and query images of the new task's classes, that are kept to be looked at."""

    @property
    def trained(self) -> dict[str, TrainingConfig]:
        """The methods that are trained, and how."""
        return {ZooStudent.name: self.zoo_student, PURER.name: self.purer, FREE.name: self.free}


@dataclass(frozen=True)
class RecoveredClass:
    """What a method made of one class of a member, and what the member had really been trained on."""

    label: str
    recovered: Float[Tensor, "recovered 3 size size"]
    real: Float[Tensor, "real 3 size size"]


@dataclass(frozen=True)
class NewTask:
    """One task of unseen classes, and what a classifier that was adapted to it says of images it has not seen.

    Attributes:
        classes: Their names.
        probabilities: Of every class for every query image.
    """

    classes: tuple[str, ...]
    support_images: Float[Tensor, "support 3 size size"]
    support_labels: Int64[Tensor, " support"]
    query_images: Float[Tensor, "query 3 size size"]
    query_labels: Int64[Tensor, " query"]
    probabilities: Float[Tensor, "query way"]

    @property
    def right(self) -> int:
        """Query images whose most probable class is theirs."""
        return int((self.probabilities.argmax(dim=1) == self.query_labels).sum())


@dataclass(frozen=True)
class Training:
    """The way of one method that was trained.

    Attributes:
        curve: Meta-iteration -> evaluation; at 0 an untrained network of the same backbone (`random_embedding`).
        metrics: A row a meta-iteration.
        recovered: Of every member, class by class: the images that the method ended with, none where it kept none.
    """

    curve: dict[int, Evaluation]
    metrics: tuple[dict[str, Any], ...]
    recovered: tuple[tuple[RecoveredClass, ...], ...]

    def curve_in_seconds(self) -> dict[float, Evaluation]:
        """Seconds of training -> evaluation, so that methods whose meta-iterations differ can be compared."""
        seconds = [0.0, *accumulate(row["seconds"] for row in self.metrics)]
        return {seconds[iteration]: evaluation for iteration, evaluation in self.curve.items()}


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart found.

    Attributes:
        members: The zoo.
        trainings: By method.
        evaluations: The methods of `trainings`, in their order, then the baselines, on the same episodes.
        task: One new task, solved by the first method.
        training_seconds: By method, the zoo not included.
        stored_bytes: Of the weights that a method must keep to be used, by method.
        stages: Name -> seconds.
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
    def learned(self) -> tuple[Evaluation, ...]:
        """The evaluations of the methods that were trained."""
        return self.evaluations[: len(self.trainings)]

    @property
    def baselines(self) -> tuple[Evaluation, ...]:
        """The other evaluations."""
        return self.evaluations[len(self.trainings) :]
