"""How a classifier of a simulated zoo is trained: the recipes `paper` and `strong`, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dfml.errors import UsageError
from dfml.settings import FrozenSettings, override


class Optimisation(FrozenSettings):
    """An optimiser and its learning rate over time.

    Attributes:
        optimiser: `adam`, or `sgd` with `momentum`.
        learning_rate: The highest.
        schedule: `constant`; `steps`: times `step_factor` after each epoch of `step_epochs`; `one_cycle`: up from 1/25
            during the first 30% of the updates, then down to almost zero.
    """

    optimiser: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "steps", "one_cycle"] = "constant"
    step_epochs: tuple[int, ...] = ()
    step_factor: float = Field(default=0.2, gt=0)


class Recipe(FrozenSettings):
    """All that decides how a member is trained, besides its images, its architecture and its seed.

    Attributes:
        name: Noted in every member.
        conv4: For the Conv4 family.
        others: For every other architecture.
        epochs: Passes over the fitting images; the last epoch's weights are kept.
        batch_size: Images an update, at most.
        gradient_clip: Largest norm of an update's gradient.
        crop_padding: Pixels of black added on every side before a random crop of the original size; 0: no cropping.
        flip: Mirror every image with probability one half.
    """

    name: str
    conv4: Optimisation
    others: Optimisation
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=2)
    gradient_clip: float = Field(default=50.0, gt=0)
    crop_padding: int = Field(default=0, ge=0)
    flip: bool = False

    def optimisation(self, architecture: str) -> Optimisation:
        """How this architecture is optimised."""
        return self.conv4 if architecture.startswith("conv4") else self.others

    def override(self, **settings: Any) -> Recipe:
        """This recipe with some settings replaced: `PAPER.override(epochs=10)`.

        Raises:
            ConfigError: If a setting is unknown or its value impossible.
        """
        return override(self, settings)


PAPER = Recipe(
    name="paper",
    conv4=Optimisation(optimiser="adam", learning_rate=0.01),
    others=Optimisation(
        optimiser="sgd", learning_rate=0.01, weight_decay=5e-4, schedule="steps", step_epochs=(30, 50, 80)
    ),
    epochs=60,
)
"""The papers' pre-training (papers, 1.8), with the learning rate schedules of their later releases."""

STRONG = Recipe(
    name="strong",
    conv4=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    others=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    epochs=25,
    crop_padding=4,
    flip=True,
)
"""Augmentation and a one-cycle schedule: better classifiers in fewer epochs."""

RECIPES = {recipe.name: recipe for recipe in (PAPER, STRONG)}


def recipe_by_name(name: str) -> Recipe:
    """One of `RECIPES`.

    Raises:
        UsageError: If there is no recipe of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
