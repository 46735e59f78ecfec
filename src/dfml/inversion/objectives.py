"""What makes pixels look like something a classifier was trained on: the terms of PURER's inversion loss (papers 1.2).

Pure functions. Pixels are in normalised space (see `dfml.tasks.dynamic_dataset`); norms are over whole tensors and not
squared, as the papers have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional

from dfml.zoo.classifier import Preprocessing, PretrainedClassifier
from dfml.zoo.stack import StackedMember
from dfml.zoo.statistics import LayerStatistics


class InversionWeights(BaseModel):
    """Weights of the inversion loss; the defaults are PURER's, for every data set. A term of weight 0 costs nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    label: NonNegativeFloat = 1.0
    """Cross-entropy of the assigned labels."""
    batch_norm: NonNegativeFloat = 0.01
    """Distance of the batch-norm statistics."""
    first_layer: NonNegativeFloat = 1.0
    """Factor of the first batch-norm layer (DeepInversion on ImageNet: 10)."""
    total_variation: NonNegativeFloat = 1e-4
    l2: NonNegativeFloat = 1e-5
    jitter: NonNegativeInt = 2
    """Largest shift in pixels, drawn anew at every step for the whole batch."""


def batch_norm_distance(statistics: Sequence[LayerStatistics], first_layer: float = 1.0) -> Float[Tensor, ""]:
    """Sum over layers of ||var - stored var||_2 + ||mean - stored mean||_2, over channels, not squared."""
    distances = [
        torch.linalg.vector_norm(layer.variance - layer.stored_variance)
        + torch.linalg.vector_norm(layer.mean - layer.stored_mean)
        for layer in statistics
    ]
    return torch.stack([distances[0] * first_layer, *distances[1:]]).sum()


def total_variation(pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, ""]:
    """Sum of the norms of the horizontal, vertical and both diagonal differences."""
    differences = (
        pixels[..., :, 1:] - pixels[..., :, :-1],
        pixels[..., 1:, :] - pixels[..., :-1, :],
        pixels[..., 1:, 1:] - pixels[..., :-1, :-1],
        pixels[..., 1:, :-1] - pixels[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()


def draw_shift(jitter: int, generator: torch.Generator) -> tuple[int, int]:
    """Offsets in [-jitter, jitter] for height and width."""
    height, width = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    return height, width


@dataclass(frozen=True)
class InversionLoss:
    """The weighted sum, differentiable, and its parts, not weighted and detached."""

    total: Float[Tensor, ""]
    label: Float[Tensor, ""]
    batch_norm: Float[Tensor, ""]


def inversion_loss(
    classifier: PretrainedClassifier | StackedMember,
    pixels: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, "images"],
    preprocessing: Preprocessing,
    weights: InversionWeights,
    shift: tuple[int, int],
) -> InversionLoss:
    """PURER's loss of one member on all images assigned to it (papers 1.2).

    Args:
        classifier: The member.
        pixels: In the normalised space of `preprocessing`.
        labels: Outputs of the member that the images are assigned to.
        preprocessing: Turns the pixels into images; the member then normalises with its own. Its image size may differ:
            the images are resized.
        weights: Of the terms.
        shift: Circular shift for the whole batch, from `draw_shift`.
    """
    shifted = torch.roll(pixels, shift, dims=(2, 3)) if any(shift) else pixels
    images = preprocessing.restore(shifted)
    size = classifier.size
    if images.shape[-1] != size:
        images = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    zero = pixels.new_zeros(())
    if weights.batch_norm:
        logits, statistics = classifier.logits_and_statistics(images)
        batch_norm = batch_norm_distance(statistics, weights.first_layer) if statistics else zero
    else:
        logits, batch_norm = classifier.logits(images), zero
    label = functional.cross_entropy(logits, labels)
    total = weights.label * label + weights.batch_norm * batch_norm
    if weights.total_variation:
        total = total + weights.total_variation * total_variation(shifted)
    if weights.l2:
        total = total + weights.l2 * torch.linalg.vector_norm(shifted)
    return InversionLoss(total, label.detach(), batch_norm.detach())
