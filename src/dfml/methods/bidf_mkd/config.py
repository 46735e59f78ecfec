"""Settings of BiDf-MKD."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from dfml.inversion.registry import InversionConfig
from dfml.training.recovered_tasks import RecoveredTasksConfig


class BiDfMKDConfig(RecoveredTasksConfig):
    """Settings of BiDf-MKD; defaults are those of the released code unless a setting says otherwise.

    The released code counts outer steps (60,000); a meta-iteration here is the recovery of one member's images, their
    distillation, and the replay until it stagnates, which is 200 outer steps and more.
    """

    iterations: NonNegativeInt = 300
    """Number of meta-iterations."""
    inversion: InversionConfig = InversionConfig(engine="zeroth_order")
    """Inversion engine, and the settings of each engine. Engines that need gradients invert no member here."""
    query_limit: PositiveInt | None = None
    """Largest number of images that each member may be queried with in a training; None: no limit. A member that cannot
    be queried with another round any more is left out, and training goes on with what was recovered."""
    members_per_step: PositiveInt = 1
    """Number of members per meta-iteration, sampled at random."""
    images_per_class: PositiveInt = 30
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    boundary_after: NonNegativeInt = 20
    """Number of meta-iterations after which the query images are recovered on their own, where the adapted learner and
    the member disagree. Before, half of the images of each class are the query images. The released code begins after
    4,000 outer steps."""
    distillation_steps: PositiveInt = 10
    """Number of gradient steps of the inner loop, which distils a member into the learner."""
    distillation_lr: PositiveFloat = 0.01
    """Learning rate of this inner loop."""
    replay: Literal["stagnation", "fixed", "none"] = "stagnation"
    """Length of the replay in a meta-iteration. `stagnation`: until the accuracy has not improved for `replay_patience`
    steps (as in the released code; the time varies). `fixed`: `replay_steps` steps. `none`: no replay."""
    replay_patience: PositiveInt = 200
    """Number of replay steps in a row without improvement that end a replay until `stagnation`."""
    replay_tasks: PositiveInt = 4
    """Number of tasks per replay step; their losses are summed."""
