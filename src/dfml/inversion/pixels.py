"""Episode inversion of pixels: images are optimised directly until a classifier takes them for its own (papers 1.2, 3).

This is the DeepInversion form without a student. `PixelInversion` is the engine: it starts on a member, steps, and
gives images.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.inversion.objectives import InversionLoss, InversionWeights, draw_shift, inversion_loss
from dfml.zoo.classifier import PretrainedClassifier


class PixelInversionConfig(BaseModel):
    """Settings of pixel inversion.

    Unlike PURER, which never shows its images, the defaults here weigh statistics and smoothness so that the images are
    fit to look at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: PositiveInt = 400
    lr: PositiveFloat = 0.1
    """Of Adam, for pixels in normalised space; falls to zero along a half cosine."""
    weights: InversionWeights = InversionWeights(batch_norm=1.0, total_variation=0.01, l2=0.001)


class PixelInversion:
    """Inversion of one member, step by step.

    Args:
        classifier: The member.
        labels: The output that each image is to be of.
        config: Steps, learning rate, weights of the loss.
        seed: Of the first pixels, N(0, 1) in the member's normalised space, and of the shifts.
    """

    def __init__(
        self, classifier: PretrainedClassifier, labels: Int64[Tensor, "images"], config: PixelInversionConfig, seed: int
    ) -> None:
        self.classifier = classifier
        self.labels = labels
        self.config = config
        self.seed = seed
        self.done = 0
        size = classifier.preprocessing.size
        # One draw an image: asking for more images does not change the first ones' start.
        draws = [torch.randn(3, size, size, generator=seeds.generator(seed, "pixels", i)) for i in range(len(labels))]
        self.pixels = torch.stack(draws).to(labels.device).requires_grad_()
        self._optimiser = torch.optim.Adam([self.pixels], lr=config.lr)

    def step(self) -> InversionLoss:
        """One step of Adam on the inversion loss; returns the loss before it."""
        shift = draw_shift(self.config.weights.jitter, seeds.generator(self.seed, "shift", self.done))
        loss = inversion_loss(
            self.classifier, self.pixels, self.labels, self.classifier.preprocessing, self.config.weights, shift
        )
        (self.pixels.grad,) = torch.autograd.grad(loss.total, self.pixels)
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * self.done / self.config.steps))
        self._optimiser.step()
        self.done += 1
        return loss

    def images(self) -> Float[Tensor, "images 3 size size"]:
        """The images as they stand, clipped to [0, 1]."""
        return self.classifier.preprocessing.restore(self.pixels.detach()).clamp(0.0, 1.0)


def invert_member(
    classifier: PretrainedClassifier,
    labels: Int64[Tensor, "images"],
    config: PixelInversionConfig | None = None,
    *,
    seed: int = 0,
) -> Float[Tensor, "images 3 size size"]:
    """Recover images from one classifier.

    Args:
        classifier: The member.
        labels: The output that each image is to be of.
        config: None: the defaults.
        seed: Of start and shifts.

    Returns:
        Images in [0, 1].
    """
    engine = PixelInversion(classifier, labels, config or PixelInversionConfig(), seed)
    for _ in range(engine.config.steps):
        engine.step()
    return engine.images()
