"""What a quickstart is made of: its settings, and all that it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dfml.evaluation.protocol import Evaluation
from dfml.inversion.objectives import InversionWeights
from dfml.learners import LearnerConfig
from dfml.methods.purer import PurerConfig
from dfml.pretraining import STRONG, BuiltMember, Recipe


class QuickstartSettings(BaseModel):
    """All that the quickstart chooses, so that it takes two minutes on one CPU core.

    The letters are small, two-coloured and alike: other settings than the papers' suit them. They were chosen on Latin
    letters that were kept from the zoo for that purpose, not on the Greek and Cyrillic ones that it is judged on; the
    numbers of meta-iterations and episodes are what fits the time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
    purer: PurerConfig = PurerConfig(
        shot=5,
        query=5,
        iterations=300,
        snapshot_every=50,
        checkpoint_every=150,
        learner=LearnerConfig(kind="protonet"),
        outer_lr=0.01,
        pixel_lr=0.1,
        inversion=InversionWeights(batch_norm=0.1, total_variation=0.01),
        curriculum_weight=0.1,
        warm_up=80,
    )
    query: int = 15
    """Query images a class when it is judged."""
    episodes: int = 100
    curve_episodes: int = 60
    """For the points of the learning curve."""
    shown: int = 6
    """Recovered images of a class, and query images of the new task's classes, that are kept to be looked at."""


@dataclass(frozen=True)
class RecoveredClass:
    """What PURER made of one class of a member, and what the member had really been trained on."""

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
class Story:
    """What a quickstart found.

    Attributes:
        members: The zoo.
        recovered: Of every member, class by class.
        evaluations: PURER, then its neighbours, on the same episodes.
        curve: Meta-iteration -> PURER's evaluation; at 0 the same network untrained.
        metrics: A row a meta-iteration.
        task: One new task.
        training_seconds: By method, the zoo not included.
        stored_bytes: Of the weights that a method must keep to be used, by method.
        stages: Name -> seconds.
    """

    seed: int
    settings: QuickstartSettings
    members: tuple[BuiltMember, ...]
    recovered: tuple[tuple[RecoveredClass, ...], ...]
    evaluations: tuple[Evaluation, ...]
    curve: dict[int, Evaluation]
    metrics: tuple[dict[str, Any], ...]
    task: NewTask
    training_seconds: dict[str, float]
    stored_bytes: dict[str, int]
    stages: dict[str, float]
