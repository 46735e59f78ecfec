"""Settings of FREE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dfml.inversion.registry import InversionConfig
from dfml.learners import LearnerConfig
from dfml.methods.free.alignment import InnerOptimiser
from dfml.methods.free.distillation import HeadRule
from dfml.training.loop import TrainingConfig


class FreeConfig(TrainingConfig):
    """Settings of FREE; defaults are those of the released code unless a setting says otherwise."""

    iterations: NonNegativeInt = 999
    """Number of meta-iterations."""
    learner: LearnerConfig = LearnerConfig(inner_steps=5, test_inner_steps=10)
    inversion: InversionConfig = InversionConfig()
    """Inversion engine, and the settings of each engine."""
    members_per_step: PositiveInt = 4
    """Number of members per meta-iteration, sampled at random."""
    images_per_class: PositiveInt = 20
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    warm_up: NonNegativeInt = 19
    """Number of meta-iterations at the beginning that train the inversion engine only."""
    alignment: Literal["sequential", "joint", "none"] = "sequential"
    """Distillation of the members into the learner. `sequential`: one member after the other (BELL). `joint`: the same
    updates, with all gradients taken before the first (an ablation). `none`: no distillation, and thus no disagreement
    term in the inversion loss."""
    alignment_optimiser: InnerOptimiser = "adam"
    """Optimiser of these updates, new in every meta-iteration: `adam` as in the released code, `sgd` as in the
    theory."""
    alignment_lr: PositiveFloat = 0.001
    """Learning rate of these updates."""
    distillation_head: HeadRule = "classes"
    """Row of the distillation head that is trained by an output of a member. `classes`: the row of the output's class.
    `positions`: the row with the output's index, as in the released code. The head is used for the distillation only;
    the head that episodes start from is trained by the replay."""
    temperature: PositiveFloat = 1.0
    """Temperature of the distillation."""
    cosine_every: NonNegativeInt = 0
    """Number of meta-iterations between measurements of the cosine between the members' gradients with respect to the
    backbone; 0: no measurements."""
    outer_lr: PositiveFloat = 0.001
    """Learning rate of Adam for the meta-learned weights. Replay and distillation have an Adam each, because their
    gradients differ in scale."""
    memory: PositiveInt = 400
    """Number of images kept per class, as bytes: 79 MB for 64 classes of 32 x 32 images."""
    replay: Literal["stagnation", "fixed", "none"] = "stagnation"
    """Length of the replay in a meta-iteration. `stagnation`: until the accuracy has not improved for `replay_patience`
    steps (as in the released code; the time varies). `fixed`: `replay_steps` steps. `none`: no replay."""
    replay_patience: PositiveInt = 10
    """Number of replay steps in a row without improvement that end a replay until `stagnation`."""
    replay_steps: PositiveInt = 20
    """Number of steps of a `fixed` replay."""
    replay_tasks: PositiveInt = 10
    """Number of tasks per replay step; their losses are summed."""
    patience: PositiveInt = 5
    """Number of inversions in a row without progress after which a member is excluded."""
    statistics_momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Weight of a new replay step in the moving average of the support sets' batch-norm statistics, in (0, 1]; used if
    `learner.statistics_shrinkage` is not 0."""
