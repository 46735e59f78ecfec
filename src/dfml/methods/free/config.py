"""Settings of FREE."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat

from dfml.training.alignment import InnerOptimiser
from dfml.training.recovered_tasks_run import DistilledTasksConfig


class FreeConfig(DistilledTasksConfig):
    """Settings of FREE; defaults are those of the released code unless a setting says otherwise."""

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
    cosine_every: NonNegativeInt = 0
    """Number of meta-iterations between measurements of the cosine between the members' gradients with respect to the
    backbone; 0: no measurements."""
