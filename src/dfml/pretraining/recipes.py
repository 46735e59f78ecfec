"""How a classifier of a simulated zoo is trained: the recipes `paper` and `strong`, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dfml.errors import UsageError
from dfml.settings import FrozenSettings, override


class Optimisation(FrozenSettings):
    """An optimiser and its learning-rate schedule."""

    optimiser: Literal["adam", "sgd"]
    """Optimiser: `adam`, or `sgd` with momentum."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate of the schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; not used by Adam."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay (L2 penalty on all parameters)."""
    schedule: Literal["constant", "steps", "one_cycle"] = "constant"
    """Learning-rate schedule: `constant`; `steps`, multiplied by `step_factor` at each epoch of `step_epochs`; or
    `one_cycle`, along half cosines up from 1/25 of the peak in the first 30% of the updates, then down to almost 0."""
    step_epochs: tuple[int, ...] = ()
    """Epochs, counted from 0, at whose start the schedule `steps` lowers the learning rate."""
    step_factor: float = Field(default=0.2, gt=0)
    """Factor by which the schedule `steps` multiplies the learning rate."""


class Recipe(FrozenSettings):
    """The training of a member, except for its images, its architecture and its seed."""

    name: str
    """Name of the recipe, noted in every member."""
    conv4: Optimisation
    """Optimiser of the Conv4 family."""
    others: Optimisation
    """Optimiser of all other architectures."""
    epochs: int = Field(ge=1)
    """Number of passes over the training images; the weights of the last epoch are written."""
    batch_size: int = Field(default=128, ge=2)
    """Largest number of images per update; batches are of nearly equal size."""
    gradient_clip: float = Field(default=50.0, gt=0)
    """Largest norm of the gradient of an update; a larger one is scaled down to it."""
    crop_padding: int = Field(default=0, ge=0)
    """Black pixels added on every side before a random crop of the original size; 0 disables cropping."""
    flip: bool = False
    """Whether to mirror every image left to right with probability 1/2."""

    def optimisation(self, architecture: str) -> Optimisation:
        """Return the optimiser of an architecture."""
        return self.conv4 if architecture.startswith("conv4") else self.others

    def override(self, **settings: Any) -> Recipe:
        """Return this recipe with some settings replaced: `PAPER.override(epochs=10)`.

        Raises:
            ConfigError: If a setting is unknown or its value is out of range.
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
"""Pre-training of PURER and FREE, with the learning-rate schedules of their later code releases."""

STRONG = Recipe(
    name="strong",
    conv4=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    others=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    epochs=25,
    crop_padding=4,
    flip=True,
)
"""Augmentation and a one-cycle schedule: higher accuracy in fewer epochs than `PAPER`."""

RECIPES = {recipe.name: recipe for recipe in (PAPER, STRONG)}


def recipe_by_name(name: str) -> Recipe:
    """Return one of `RECIPES` by name.

    Raises:
        UsageError: If there is no recipe of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
