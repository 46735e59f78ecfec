"""Episode inversion (EI): optimise pixels directly until a classifier recognises them as its own training classes.

PURER (Hu et al., CVPR 2023, arXiv 2303.11183). With a student and `weights.divergence` js this is DeepInversion (Yin et
al., CVPR 2020, arXiv 1912.08795) up to the form of its image priors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from dfml import seeds
from dfml.drawn_images import dead_leaves
from dfml.inversion.chunked_gradient import images_per_pass, inversion_gradient
from dfml.inversion.engine import (
    EmaStatistics,
    Engine,
    InversionRun,
    StatisticsMemory,
    StudentRowLogits,
    Target,
    recover,
)
from dfml.inversion.initialisation import InitialPixels, matched_initialisations
from dfml.inversion.loss import InversionLoss, InversionWeights
from dfml.inversion.views import sample_view
from dfml.schedules import half_cosine
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import PretrainedClassifier

_RECOGNISED = 0.9  # fraction of recognised images that ends the steps at the full learning rate
_WINDOW, _LEAST_FALL = 20, 0.02  # steps whose mean loss must be lower than that of the steps before, and by how much


class PixelInversionConfig(FrozenSettings):
    """Settings of episode inversion.

    The defaults serve every architecture that was tried (docs/results/architectures.md); the loss weights of PURER
    are those of the preset `released` of the method `purer`.
    """

    start: Literal["noise", "dead_leaves", "auto"] = "auto"
    """Initial pixels. `noise`: N(0, 1). `dead_leaves`: random overlapping shapes, whose image statistics are closer to
    those of photographs than pixels inverted from noise. `auto`: dead leaves, and for every other image light or dark
    pen strokes if these are closer to the member's batch-norm statistics."""
    search_steps: NonNegativeInt = 300
    """Largest number of steps at the full learning rate (the search). The search ends for a member as soon as it
    recognises 90% of the views of its images, or when the mean loss of the last 20 steps is not at least 2% below that
    of the previous 20. 0: no search."""
    steps: NonNegativeInt = 30
    """Number of steps after these, in which the learning rate falls to zero along a half cosine, and crops and
    changes of colour with it; with 0, the initial pixels are returned."""
    lr: PositiveFloat = 0.05
    """Learning rate of Adam for pixels in normalised space."""
    clip: bool = True
    """Whether to clip the images to [0, 1] after every step, so that what is optimised is what is stored."""
    weights: InversionWeights = InversionWeights(
        form="means",
        batch_norm=3.0,
        total_variation=0.1,
        l2=1e-4,
        flip=True,
        views="image",
        zoom=0.25,
        colour=0.05,
    )


ANY_ARCHITECTURE = PixelInversionConfig(search_steps=60)
"""Settings for members of any architecture in a training, which inverts each of them many times: a short search."""


class PixelInversion(Engine):
    """Every pixel is a parameter. Nothing is learned from one member for another.

    Args:
        config: Steps, learning rate and weights of the loss.
        seed: Seed of the initial pixels and of the views.
    """

    def __init__(self, config: PixelInversionConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.steps = config.search_steps + config.steps if config.steps else 0
        self._statistics = StatisticsMemory()
        self._initialisations: dict[str, tuple[InitialPixels, ...]] = {}

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        pixels = [self._initial_pixels(target, round_index).requires_grad_() for target in targets]
        previous = self._statistics.get(targets)
        return _PixelInversionRun(
            self.config, self.seed, targets, round_index, pixels, student, previous, self.memory_limit
        )

    def _initial_pixels(self, target: Target, round_index: int) -> Tensor:
        size = target.network.preprocessing.size
        if self.config.start == "noise":
            # One draw per image: the first images do not depend on how many are asked for.
            draws = [
                torch.randn(3, size, size, generator=seeds.generator(self.seed, "pixels", round_index, target.name, i))
                for i in range(len(target.labels))
            ]
            return torch.stack(draws).to(target.labels.device)
        kinds: tuple[InitialPixels, ...] = (dead_leaves,)
        if self.config.start == "auto":
            if target.name not in self._initialisations:
                self._initialisations[target.name] = matched_initialisations(target.network, self.seed)
            kinds = self._initialisations[target.name]
        pixels = torch.empty(len(target.labels), 3, size, size)
        for position, (draw, purpose) in enumerate(zip(kinds, ("leaves", "strokes"), strict=False)):
            # Images alternate between the kinds, and the next round begins with the other one: over the rounds, classes
            # of one image per round get both.
            own = slice((position + round_index) % len(kinds), None, len(kinds))
            generator = seeds.generator(self.seed, purpose, round_index, target.name)
            if len(pixels[own]):
                pixels[own] = draw(len(pixels[own]), size, generator)
        return pixels.to(target.labels.device)

    def learn(self, run: InversionRun, kept: Sequence[int] | None = None) -> None:
        """Keep the statistics of the images for the momentum; see `Engine.learn`."""
        self._statistics.update(run, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state_dict`."""
        return self._statistics.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_state_dict`."""
        self._statistics.load_state_dict(tensors)


class _PixelInversionRun(InversionRun):
    def __init__(
        self,
        config: PixelInversionConfig,
        seed: int,
        targets: Sequence[Target],
        round_index: int,
        initial_pixels: Sequence[Tensor],
        student: StudentRowLogits | None,
        previous_statistics: Sequence[EmaStatistics],
        memory: int,
    ) -> None:
        super().__init__(targets, student, previous_statistics)
        self._config, self._seed, self._round_index = config, seed, round_index
        self._pixels = list(initial_pixels)
        self._optimisers = [torch.optim.Adam([pixels], lr=config.lr) for pixels in self._pixels]
        self._schedules = [SearchSchedule(config, target.steps) for target in targets]
        self._losses: dict[int, InversionLoss] = {}
        self._chunks = [
            images_per_pass(target.network, pixels, memory)
            for target, pixels in zip(targets, self._pixels, strict=True)
        ]

    @property
    def finished(self) -> bool:
        """See `InversionRun.finished`."""
        return all(schedule.finished for schedule in self._schedules)

    def step(self) -> list[InversionLoss]:
        """See `InversionRun.step`; targets that are finished keep their last loss."""
        stepped = [index for index, schedule in enumerate(self._schedules) if not (self.done and schedule.finished)]
        for index in stepped:
            self._losses[index] = self._step_one(index)
        searching = [index for index in stepped if self._schedules[index].searching]
        progress = dict(zip(searching, _progress([self._losses[index] for index in searching]), strict=True))
        for index in stepped:
            self._schedules[index].advance(*progress.get(index, ()))
        self.done += 1
        return [self._losses[index] for index in range(len(self.targets))]

    def _step_one(self, index: int) -> InversionLoss:
        schedule = self._schedules[index]
        target, pixels, weights = self.targets[index], self._pixels[index], self._config.weights
        generator = seeds.generator(self._seed, "view", self._round_index, target.name, self.done)
        loss, pixels.grad = inversion_gradient(
            target.network,
            pixels,
            target.labels,
            target.network.preprocessing,
            weights,
            sample_view(weights, generator, len(pixels), pixels.shape[-1], schedule.factor),
            student=self.student_for(target.rows),
            previous_statistics=self.previous_statistics[index],
            chunk=self._chunks[index],
        )
        self.ema_statistics[index] = loss.ema_statistics
        for group in self._optimisers[index].param_groups:
            group["lr"] = self._config.lr * schedule.factor
        self._optimisers[index].step()
        if self._config.clip:
            with torch.no_grad():
                low, high = (target.network.preprocessing.normalise(torch.full((3, 1, 1), v)) for v in (0.0, 1.0))
                pixels.clamp_(low.to(pixels), high.to(pixels))
        return loss

    def images(self) -> list[Tensor]:
        """Images in the size of each member's input, clipped to [0, 1]."""
        return [
            target.network.preprocessing.denormalise(pixels.detach()).clamp(0.0, 1.0)
            for target, pixels in zip(self.targets, self._pixels, strict=True)
        ]


class SearchSchedule:
    """The learning rate of one set of images, and when it is finished; see `PixelInversionConfig.search_steps`.

    Args:
        config: Numbers of steps.
        most: Largest number of steps, which shortens the search first; None: no other limit.

    Attributes:
        searching: Whether the learning rate is still at its highest.
    """

    def __init__(self, config: PixelInversionConfig, most: int | None = None) -> None:
        self._steps = config.steps if most is None else min(config.steps, most)
        self._search_steps = config.search_steps if most is None else min(config.search_steps, most - self._steps)
        self._losses: list[float] = []
        self._annealed = 0  # steps since the learning rate began to fall
        self.searching = self._search_steps > 0

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self._annealed >= self._steps

    @property
    def factor(self) -> float:
        """Learning rate of the next step, and strength of its views, as a fraction of the highest one."""
        return 1.0 if self.searching else half_cosine(min(self._annealed / max(self._steps, 1), 1.0))

    def advance(self, loss: float = 0.0, recognised: float = 0.0) -> None:
        """Count a step.

        Args:
            loss: Loss before the step; only used during the search.
            recognised: Fraction of the images' views that were recognised, likewise.
        """
        if not self.searching:
            self._annealed += 1
            return
        self._losses.append(loss)
        self.searching = recognised < _RECOGNISED and not self._stalled() and len(self._losses) < self._search_steps

    def _stalled(self) -> bool:
        if len(self._losses) < 2 * _WINDOW:
            return False
        before, now = (sum(part) for part in (self._losses[-2 * _WINDOW : -_WINDOW], self._losses[-_WINDOW:]))
        return not before - now >= _LEAST_FALL * abs(before)


def _progress(losses: Sequence[InversionLoss]) -> list[list[float]]:
    """Loss and fraction of recognised images of some targets, in one transfer from the device."""
    if not losses:
        return []
    values = [
        torch.stack([loss.total, torch.zeros_like(loss.total) if loss.recognised is None else loss.recognised])
        for loss in losses
    ]
    found: list[list[float]] = torch.stack(values).tolist()
    return found


def invert_classifier(
    classifier: PretrainedClassifier,
    labels: Int64[Tensor, " images"],
    config: PixelInversionConfig | None = None,
    *,
    seed: int = 0,
) -> Float[Tensor, "images 3 size size"]:
    """Recover images from one classifier in memory by episode inversion.

    Args:
        classifier: The classifier.
        labels: For every image the output that it is assigned to.
        config: Settings; None: the defaults.
        seed: Seed of the initial pixels and of the views.

    Returns:
        Images in [0, 1].
    """
    engine = PixelInversion(config or PixelInversionConfig(), seed)
    (images,) = recover(engine, [Target("member", classifier, labels)])
    return images
