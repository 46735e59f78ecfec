"""How a classifier of a simulated zoo is trained: the recipes `paper` and `strong`, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dfml.errors import UsageError
from dfml.settings import FrozenSettings, override

_PADDED_SIZE = 32  # side length in pixels, up to which `Recipe.crop_padding` is the number of pixels


class Optimisation(FrozenSettings):
    """An optimiser and its learning-rate schedule."""

    optimiser: Literal["adam", "adamw", "sgd"]
    """Optimiser: `adam`; `adamw`; or `sgd` with momentum."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate of the schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; not used by the others."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of all parameters: an L2 penalty; `adamw` decays the weights themselves (Loshchilov and Hutter, ICLR
    2019)."""
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
    """Optimiser of other networks with batch-norm layers."""
    no_batch_norm: Optimisation
    """Optimiser of networks without batch-norm layers, such as vision transformers and ConvNeXt. Transformers hardly
    learn at the learning rates that suit networks with batch-norm."""
    epochs: int = Field(ge=1)
    """Number of passes over the training images; the weights of the last epoch are written."""
    batch_size: int = Field(default=128, ge=2)
    """Largest number of images per update; batches are of nearly equal size."""
    gradient_clip: float = Field(default=50.0, gt=0)
    """Largest norm of the gradient of an update; a larger one is scaled down to it."""
    crop_padding: int = Field(default=0, ge=0)
    """Black pixels added on every side of images of at most 32 x 32 pixels before a random crop of the original size;
    larger images get more, in proportion to their size. 0 disables cropping."""
    flip: bool = False
    """Whether to mirror every image left to right with probability 1/2."""

    def optimisation(self, architecture: str, *, batch_norm: bool) -> Optimisation:
        """Return the optimiser of a network.

        Args:
            architecture: Name of its architecture.
            batch_norm: Whether it has batch-norm layers with running statistics.
        """
        if architecture.startswith("conv4"):
            return self.conv4
        return self.others if batch_norm else self.no_batch_norm

    def padding(self, size: int) -> int:
        """Return the pixels added on every side of images of `size` x `size` pixels before a random crop.

        With a `crop_padding` of 4 these are 4 pixels up to a size of 39, and `size // 8` above.
        """
        return max(self.crop_padding, self.crop_padding * size // _PADDED_SIZE)

    def override(self, **settings: Any) -> Recipe:
        """Return this recipe with some settings replaced: `PAPER.override(epochs=10)`.

        Raises:
            ConfigError: If a setting is unknown or its value is out of range.
        """
        return override(self, settings)


_NO_BATCH_NORM = Optimisation(optimiser="adamw", learning_rate=0.001, weight_decay=0.05, schedule="one_cycle")

PAPER = Recipe(
    name="paper",
    conv4=Optimisation(optimiser="adam", learning_rate=0.01),
    others=Optimisation(
        optimiser="sgd", learning_rate=0.01, weight_decay=5e-4, schedule="steps", step_epochs=(30, 50, 80)
    ),
    no_batch_norm=_NO_BATCH_NORM,
    epochs=60,
)
"""Pre-training of PURER and FREE, with the learning-rate schedules of their later code releases; they have no networks
without batch-norm layers."""

STRONG = Recipe(
    name="strong",
    conv4=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    others=Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle"),
    no_batch_norm=_NO_BATCH_NORM,
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
