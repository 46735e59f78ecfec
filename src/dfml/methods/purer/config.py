"""Settings of PURER."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from dfml.inversion.loss import InversionWeights
from dfml.learners import ICFILConfig, LearnerConfig
from dfml.training.loop import TrainingConfig

RELEASED_WEIGHTS = InversionWeights(form="norms", label=1.0, batch_norm=0.01, total_variation=1e-4, l2=1e-5, jitter=2)
"""The inversion loss of PURER's released code."""


class PurerConfig(TrainingConfig):
    """Settings of PURER; defaults are those of the released CIFAR-FS scripts, except for the random start."""

    learner: LearnerConfig = LearnerConfig(calibration=ICFILConfig())
    """Learner that is meta-trained, with its calibration at test time (ICFIL). By default the backbone is calibrated;
    under the preset `released` also the head, as in the paper, which was worse on the validation classes of CIFAR-FS;
    under the preset `cpu` nothing."""
    start: Literal["random", "average"] = "random"
    """Initial weights of the learner. `random`; or `average`: the mean of the members' weights, as in the released
    scripts, which requires that all members have the learner's architecture."""
    episodes: PositiveInt = 4
    """Number of episodes per meta-iteration; their outer losses are summed."""
    outer_lr: PositiveFloat = 0.001
    """Learning rate of Adam for the meta-learned weights."""
    images_per_class: PositiveInt | None = None
    """Number of images of each class in the dynamic dataset; None: shot + query."""
    pixel_lr: PositiveFloat = 0.25
    """Learning rate of Adam for the pixels of the dynamic dataset."""
    inversion: InversionWeights = RELEASED_WEIGHTS
    """Weights of the inversion loss."""
    inversion_memory: PositiveFloat = 2.0
    """Memory in GiB that one backward pass through a member may take. The pixels of a member that take more are passed
    in chunks, which gives the same gradient and takes about a third longer."""
    members_per_step: PositiveInt = 13
    """Largest number of members per step of the dynamic dataset; sampled at random from a larger zoo."""
    stacked: bool | None = None
    """Evaluate all members of one architecture in one batched call; None: only on a GPU, where that is faster.
    Not used if a member of the zoo only predicts."""
    curriculum_weight: NonNegativeFloat = 10.0
    """Weight of the reversed outer loss (lambda in the paper); 0: episode inversion without curriculum. If
    `curriculum_update` is `separate`, length of its step: root mean square over the pixels, in units of `pixel_lr`."""
    curriculum_update: Literal["adam", "separate"] = "adam"
    """How the reversed outer loss changes the pixels. `adam`: its gradient is added to that of the inversion, and Adam
    takes one step along the sum, as in the released code; its moving averages repeat this gradient in later steps.
    `separate`: Adam's step is followed by one along the normalised gradient, which Adam does not see."""
    warm_up: PositiveInt = 4000
    """Number of meta-iterations before the Gradient Switch may turn on."""
    patience: PositiveInt = 6
    """Number of consecutive meta-iterations without a new best accuracy that turn the Gradient Switch on."""
    statistics_momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Weight of a new meta-iteration in the moving average of the support sets' batch-norm statistics, in (0, 1]; used
    if `learner.statistics_shrinkage` is not 0."""

    @field_validator("inversion")
    @classmethod
    def _no_student(cls, weights: InversionWeights) -> InversionWeights:
        if weights.disagreement or weights.momentum:
            raise ValueError("PURER has no student and no earlier batches: disagreement and momentum must be 0")
        return weights
