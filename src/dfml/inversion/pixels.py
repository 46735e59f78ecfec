"""Episode inversion (EI): pixels are optimised directly until a classifier takes them for its own (papers 1.2, 3).

With a student and `weights.divergence` js this is what DeepInversion does, up to the form of its image priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat
from torch import Tensor

from dfml import seeds
from dfml.inversion.objectives import InversionLoss, InversionWeights, draw_view, inversion_loss
from dfml.inversion.procedural import dead_leaves
from dfml.inversion.recovery import (
    Engine,
    Recovery,
    SeenStatistics,
    StatisticsMemory,
    Target,
    TargetStudent,
    recover,
)
from dfml.zoo.classifier import PretrainedClassifier


class PixelInversionConfig(BaseModel):
    """Settings of pixel inversion.

    Unlike PURER, which never shows its images, the defaults here weigh statistics and smoothness so that the images are
    fit to look at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start: Literal["noise", "leaves"] = "noise"
    """The first pixels: N(0, 1), or dead leaves (`dfml.inversion.procedural`), which look more like photographs before
    the first step than noise does after hundreds."""
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

    def start(self, targets: Sequence[Target], visit: int = 0, *, student: TargetStudent | None = None) -> Recovery:
        """See `Engine.start`."""
        return _PixelRecovery(self.config, self.seed, targets, visit, student, self._statistics.of(targets))

    def learn(self, recovery: Recovery, kept: Sequence[int] | None = None) -> None:
        """Keep the statistics of the images, for the momentum; see `Engine.learn`."""
        self._statistics.keep(recovery, kept)

    def state(self) -> dict[str, Tensor]:
        """See `Engine.state`."""
        return self._statistics.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self._statistics.restore(tensors)


class _PixelRecovery(Recovery):
    def __init__(
        self,
        config: PixelInversionConfig,
        seed: int,
        targets: Sequence[Target],
        visit: int,
        student: TargetStudent | None,
        earlier: Sequence[SeenStatistics],
    ) -> None:
        super().__init__(targets, student, earlier)
        self._config, self._seed, self._visit = config, seed, visit
        self._pixels = [self._first_pixels(target) for target in targets]
        self._optimiser = torch.optim.Adam(self._pixels, lr=config.lr)

    def _first_pixels(self, target: Target) -> Tensor:
        size = target.classifier.preprocessing.size
        if self._config.start == "leaves":
            generator = seeds.generator(self._seed, "leaves", self._visit, target.name)
            return dead_leaves(len(target.labels), size, generator).to(target.labels.device).requires_grad_()
        # One draw an image: asking for more images does not change the first ones' start.
        draws = [
            torch.randn(3, size, size, generator=seeds.generator(self._seed, "pixels", self._visit, target.name, i))
            for i in range(len(target.labels))
        ]
        return torch.stack(draws).to(target.labels.device).requires_grad_()

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
                draw_view(weights, generator),
                student=self.student_for(target.rows),
                earlier=self.earlier[index],
            )
            (self._pixels[index].grad,) = torch.autograd.grad(loss.total, self._pixels[index])
            self.smoothed[index] = loss.smoothed
            losses.append(loss.detach())
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.lr * 0.5 * (1.0 + math.cos(math.pi * min(self.done / self._config.steps, 1.0)))
        self._optimiser.step()
        self.done += 1
        return losses

    def images(self) -> list[Tensor]:
        """As large as each member's input; clipped."""
        return [
            target.classifier.preprocessing.restore(pixels.detach()).clamp(0.0, 1.0)
            for target, pixels in zip(self.targets, self._pixels, strict=True)
        ]


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
