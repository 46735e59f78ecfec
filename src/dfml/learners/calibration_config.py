"""Settings of ICFIL, in a module of their own: learners that have a calibration hold them, and do not import it."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dfml.inversion.loss import InversionWeights
from dfml.settings import FrozenSettings


class ICFILConfig(FrozenSettings):
    """Settings of ICFIL, chosen on the validation classes of CIFAR-FS (docs/results/components.md)."""

    images_per_class: PositiveInt = 2
    """Number of synthetic images per class."""
    start: Literal["noise", "dead_leaves"] = "dead_leaves"
    """Initial pixels of the synthetic images: `noise` is N(0, 1) per pixel, `dead_leaves` are overlapping shapes with
    the statistics of photographs."""
    inversion_steps: NonNegativeInt = 40
    """Number of Adam steps of the inversion; 0 leaves the initial pixels as they are."""
    inversion_lr: PositiveFloat = 0.1
    """Learning rate of Adam for the synthetic pixels in normalised space; it falls to 0 along a half cosine."""
    weights: InversionWeights = InversionWeights()
    """Weights of the inversion loss. Its batch-norm term compares with the statistics of the real support set in the
    adapted network, not with those that the learner has stored in training. `momentum` and `disagreement` have no
    effect here."""
    steps: PositiveInt = 5
    """Number of gradient steps of the calibration."""
    lr: PositiveFloat = 0.01
    """Learning rate of the gradient steps of the calibration, for all weights."""
    contrast: NonNegativeFloat = 1.0
    """Weight of the contrastive loss between features of real and synthetic images."""
    temperature: PositiveFloat = 0.5
    """Temperature of the contrastive loss, by which cosine similarities are divided."""
    head: NonNegativeFloat = 0.0
    """Weight of the cross-entropy of real and synthetic images, which the paper also uses, to calibrate the head. 0 by
    default: on the validation classes it undid the gain of the contrastive loss."""
    seed: int = 0
    """Seed of the initial pixels and the views. All tasks share it, so the calibration of a task depends on that task
    alone."""
