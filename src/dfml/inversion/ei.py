"""Episode inversion (EI): pixels are optimised directly until a classifier takes them for its own (papers 1.2, 3).

With a student and `weights.divergence` js this is what DeepInversion does, up to the form of its image priors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from dfml import seeds
from dfml.inversion.engine import (
    EmaStatistics,
    Engine,
    InversionRun,
    StatisticsMemory,
    StudentRowLogits,
    Target,
    recover,
)
from dfml.inversion.initialisation import dark_strokes, dead_leaves, pen_strokes
from dfml.inversion.loss import (
    InversionLoss,
    InversionWeights,
    batch_norm_distance,
    inversion_loss,
    sample_view,
)
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import PretrainedClassifier

InitialPixels = Callable[[int, int, torch.Generator], Float[Tensor, "count 3 size size"]]
"""(count, size, generator) -> images of nothing, in normalised space."""

_COMPARED = 64  # images of each kind, to find the kind that a member knows best


class PixelInversionConfig(FrozenSettings):
    """Settings of pixel inversion.

    Unlike PURER, which never shows its images, the defaults here weigh statistics and smoothness so that the images are
    fit to look at.
    """

    start: Literal["noise", "dead_leaves", "auto"] = "noise"
    """The first pixels. `noise`: N(0, 1). `leaves`: dead leaves (`dfml.inversion.initialisation`), which look more like
    photographs before the first step than noise does after hundreds. `familiar`: dead leaves, and for every other image
    light or dark strokes of a pen where these are nearer to a member's batch-norm statistics."""
    steps: NonNegativeInt = 400
    """0: the first pixels as they are."""
    lr: PositiveFloat = 0.1
    """Of Adam, for pixels in normalised space; falls to zero along a half cosine."""
    weights: InversionWeights = InversionWeights(batch_norm=1.0, total_variation=0.01, l2=0.001)


class PixelInversion(Engine):
    """Every image is its own parameter. Nothing is learned from one member for another.

    Args:
        config: Steps, learning rate, weights of the loss.
        seed: Of the first pixels, in the member's normalised space, and of the views.
    """

    def __init__(self, config: PixelInversionConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.steps = config.steps
        self._statistics = StatisticsMemory()
        self._matched: dict[str, tuple[InitialPixels, ...]] = {}

    def start(
        self, targets: Sequence[Target], visit: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        first = [self._initial_pixels(target, visit).requires_grad_() for target in targets]
        return _PixelInversionRun(self.config, self.seed, targets, visit, first, student, self._statistics.of(targets))

    def _initial_pixels(self, target: Target, visit: int) -> Tensor:
        size = target.classifier.preprocessing.size
        if self.config.start == "noise":
            # One draw an image: asking for more images does not change the first ones' start.
            draws = [
                torch.randn(3, size, size, generator=seeds.generator(self.seed, "pixels", visit, target.name, i))
                for i in range(len(target.labels))
            ]
            return torch.stack(draws).to(target.labels.device)
        kinds: tuple[InitialPixels, ...] = (dead_leaves,)
        if self.config.start == "auto":
            if target.name not in self._matched:
                self._matched[target.name] = matched_initialisations(target.classifier, self.seed)
            kinds = self._matched[target.name]
        drawn = torch.empty(len(target.labels), 3, size, size)
        for place, (make, purpose) in enumerate(zip(kinds, ("dead_leaves", "strokes"), strict=False)):
            # Images take turns; the next visit begins with another kind: classes of one image a visit get both.
            turn = slice((place + visit) % len(kinds), None, len(kinds))
            draw = seeds.generator(self.seed, purpose, visit, target.name)
            if len(drawn[turn]):
                drawn[turn] = make(len(drawn[turn]), size, draw)
        return drawn.to(target.labels.device)

    def learn(self, recovery: InversionRun, kept: Sequence[int] | None = None) -> None:
        """Keep the statistics of the images, for the momentum; see `Engine.learn`."""
        self._statistics.keep(recovery, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state`."""
        return self._statistics.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self._statistics.load_state_dict(tensors)


class _PixelInversionRun(InversionRun):
    def __init__(
        self,
        config: PixelInversionConfig,
        seed: int,
        targets: Sequence[Target],
        visit: int,
        initial_pixels: Sequence[Tensor],
        student: StudentRowLogits | None,
        earlier: Sequence[EmaStatistics],
    ) -> None:
        super().__init__(targets, student, earlier)
        self._config, self._seed, self._visit = config, seed, visit
        self._pixels = list(initial_pixels)
        self._optimiser = torch.optim.Adam(self._pixels, lr=config.lr)

    def step(self) -> list[InversionLoss]:
        weights, losses = self._config.weights, []
        for index, target in enumerate(self.targets):
            generator = seeds.generator(self._seed, "view", self._visit, target.name, self.done)
            loss = inversion_loss(
                target.classifier,
                self._pixels[index],
                target.labels,
                target.classifier.preprocessing,
                weights,
                sample_view(weights, generator),
                student=self.student_for(target.rows),
                earlier=self.earlier[index],
            )
            (self._pixels[index].grad,) = torch.autograd.grad(loss.total, self._pixels[index])
            self.ema_statistics[index] = loss.ema_statistics
            losses.append(loss.detach())
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.lr * 0.5 * (1.0 + math.cos(math.pi * min(self.done / self._config.steps, 1.0)))
        self._optimiser.step()
        self.done += 1
        return losses

    def images(self) -> list[Tensor]:
        """As large as each member's input; clipped."""
        return [
            target.classifier.preprocessing.denormalise(pixels.detach()).clamp(0.0, 1.0)
            for target, pixels in zip(self.targets, self._pixels, strict=True)
        ]


@torch.no_grad()
def matched_initialisations(classifier: PretrainedClassifier, seed: int = 0) -> tuple[InitialPixels, ...]:
    """Which images of nothing recovery from a classifier should begin with, by its batch-norm statistics.

    Strokes never stand alone: writing whose statistics they share may still be unlike them, and is then recalled worse
    than from leaves; the two together did well on all letters that were tried (docs/results/datasets.md).

    Args:
        classifier: The member.
        seed: Of the images that it is shown.

    Returns:
        `dead_leaves`; after it `pen_strokes` or `dark_strokes`, whichever is nearer, if nearer than leaves.
    """
    if not classifier.num_batch_norms:
        return (dead_leaves,)
    space = classifier.preprocessing
    device = next(classifier.parameters()).device

    def distance(drawn: Tensor) -> float:
        _, statistics = classifier.logits_and_statistics(space.denormalise(drawn.to(device)).clamp(0.0, 1.0))
        return batch_norm_distance(statistics).item()

    leaves, strokes = _to_compare(space.size, seed)
    light, dark = distance(strokes), distance(-strokes)
    if min(light, dark) < distance(leaves):
        return dead_leaves, pen_strokes if light <= dark else dark_strokes
    return (dead_leaves,)


@lru_cache(maxsize=1)
def _to_compare(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leaves and light strokes that all members of one size are shown: to draw large ones takes seconds."""
    leaves, strokes = (make(_COMPARED, size, seeds.generator(seed, "familiar")) for make in (dead_leaves, pen_strokes))
    return leaves, strokes


def invert_member(
    classifier: PretrainedClassifier,
    labels: Int64[Tensor, " images"],
    config: PixelInversionConfig | None = None,
    *,
    seed: int = 0,
) -> Float[Tensor, "images 3 size size"]:
    """Recover images from one classifier.

    Args:
        classifier: The member.
        labels: The output that each image is to be of.
        config: None: the defaults.
        seed: Of start and views.

    Returns:
        Images in [0, 1].
    """
    engine = PixelInversion(config or PixelInversionConfig(), seed)
    (images,) = recover(engine, [Target("member", classifier, labels)])
    return images
