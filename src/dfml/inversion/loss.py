"""What makes pixels look like something a classifier was trained on: the inversion loss (papers 1.2, 2.2, 3).

Pure functions. Pixels are in normalised space: the image is `mean + std * pixels`. Norms are over whole tensors and not
squared, as the papers have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional

from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics

Student = Callable[[Float[Tensor, "images 3 size size"]], Float[Tensor, "images outputs"]]
"""Whoever learns from the images: its logits for a member's outputs, from images nominally in [0, 1]."""


@runtime_checkable
class InvertibleModel(Protocol):
    """Whom images are recovered from: a `PretrainedClassifier`, one of a stack, an adapted network."""

    @property
    def size(self) -> int:
        """Pixels a side of its input."""

    def logits(self, images: Float[Tensor, "images 3 size size"], /) -> Float[Tensor, "images outputs"]:
        """Of images nominally in [0, 1]."""

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 size size"], /
    ) -> tuple[Float[Tensor, "images outputs"], list[LayerStatistics]]:
        """Also what its batch-norm layers see, beside what they ought to."""


class InversionWeights(FrozenSettings):
    """Weights of the inversion loss; on their own those of PURER, for every data set. A weight of 0 costs nothing."""

    label: NonNegativeFloat = 1.0
    """Cross-entropy of the assigned labels."""
    batch_norm: NonNegativeFloat = 0.01
    """Distance of the batch-norm statistics."""
    first_layer: NonNegativeFloat = 1.0
    """Factor of the first batch-norm layer (DeepInversion on ImageNet: 10)."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a member's earlier batches in the statistics that are compared (FastDFKD: 0.9); 0: this batch alone."""
    disagreement: NonNegativeFloat = 0.0
    """Reward for images on which the student is still wrong about the member (CMI, FastDFKD, FREE: L_adv)."""
    divergence: Literal["kl", "js"] = "kl"
    """Of member and student: KL where both name the same class (CMI, FREE), or Jensen-Shannon (DeepInversion)."""
    student_gradient: bool = True
    """Let the disagreement reach the images through the student too, as is usual; the released FREE has False."""
    total_variation: NonNegativeFloat = 1e-4
    """Of the differences between neighbouring pixels: an image prior (papers 1.2)."""
    l2: NonNegativeFloat = 1e-5
    """Of the images' length: an image prior (papers 1.2)."""
    jitter: NonNegativeInt = 2
    """Largest shift in pixels, drawn anew at every step for the whole batch."""
    wrap: bool = True
    """What is shifted out comes in again on the other side (PURER); False: the mean colour comes in (as in the random
    crops of FREE and FastDFKD, which have black there)."""
    flip: bool = False
    """Mirror the whole batch at every other step, at random."""


@dataclass(frozen=True)
class View:
    """How a batch of images is shifted and mirrored before it is shown to a member, so that no pixel is special."""

    rows: int = 0
    columns: int = 0
    flip: bool = False
    wrap: bool = True

    def apply(self, pixels: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
        """The view of a batch in normalised space; differentiable."""
        if self.rows or self.columns:
            pixels = torch.roll(pixels, (self.rows, self.columns), dims=(-2, -1)) if self.wrap else self._shift(pixels)
        return pixels.flip(-1) if self.flip else pixels

    def _shift(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        top, left = max(self.rows, 0), max(self.columns, 0)
        padded = functional.pad(pixels, (left, max(-self.columns, 0), top, max(-self.rows, 0)))
        return padded[..., top - self.rows :, left - self.columns :][..., :height, :width]


def sample_view(weights: InversionWeights, generator: torch.Generator) -> View:
    """Offsets in [-jitter, jitter] for height and width, and whether to mirror."""
    rows, columns = torch.randint(-weights.jitter, weights.jitter + 1, (2,), generator=generator).tolist()
    flip = weights.flip and bool(torch.randint(2, (1,), generator=generator))
    return View(rows, columns, flip, weights.wrap)


def batch_norm_distance(statistics: Sequence[LayerStatistics], first_layer: float = 1.0) -> Float[Tensor, ""]:
    """Sum over layers of ||var - stored var||_2 + ||mean - stored mean||_2, over channels, not squared."""
    distances = [
        torch.linalg.vector_norm(layer.variance - layer.running_variance)
        + torch.linalg.vector_norm(layer.mean - layer.running_mean)
        for layer in statistics
    ]
    return torch.stack([distances[0] * first_layer, *distances[1:]]).sum()


def update_ema_statistics(
    statistics: Sequence[LayerStatistics], earlier: Sequence[Tensor], momentum: float
) -> list[LayerStatistics]:
    """Statistics of a batch, drawn towards those of earlier batches (FastDFKD's momentum, papers 3).

    Args:
        statistics: Of the batch.
        earlier: Mean and variance of every layer (`InversionLoss.ema_statistics` of the last batch); empty for a first
            batch, which is taken as it is.
        momentum: Share of the earlier ones.
    """
    if not earlier:
        return list(statistics)
    return [
        replace(
            layer,
            mean=torch.lerp(layer.mean, earlier[2 * index], momentum),
            variance=torch.lerp(layer.variance, earlier[2 * index + 1], momentum),
        )
        for index, layer in enumerate(statistics)
    ]


def total_variation(pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, ""]:
    """Sum of the norms of the horizontal, vertical and both diagonal differences."""
    differences = (
        pixels[..., :, 1:] - pixels[..., :, :-1],
        pixels[..., 1:, :] - pixels[..., :-1, :],
        pixels[..., 1:, 1:] - pixels[..., :-1, :-1],
        pixels[..., 1:, :-1] - pixels[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()


def disagreement(
    member: Float[Tensor, "images outputs"], student: Float[Tensor, "images outputs"], divergence: str = "kl"
) -> Float[Tensor, ""]:
    """How much a student has still to learn from a member about some images; at least 0 (papers 2.2, 3).

    Args:
        member: Its logits.
        student: Logits of the student for the same outputs.
        divergence: `kl`: mean of KL(member || student) over images, where both name the same class, 0 elsewhere: images
            stay what they are, and become those that the student is unsure of. `js`: Jensen-Shannon divergence of both
            at temperature 3, over ln 2, so that it is at most 1.
    """
    if divergence == "kl":
        p, q = functional.log_softmax(member, dim=1), functional.log_softmax(student, dim=1)
        agreed = member.argmax(dim=1) == student.argmax(dim=1)
        return ((p.exp() * (p - q)).sum(dim=1) * agreed).mean()
    p, q = functional.log_softmax(member / 3.0, dim=1), functional.log_softmax(student / 3.0, dim=1)
    middle = torch.logaddexp(p, q) - math.log(2.0)
    both = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=1).mean()
    return both / (2.0 * math.log(2.0))


@dataclass(frozen=True)
class InversionLoss:
    """The weighted sum, differentiable, and its parts, not weighted and detached.

    Attributes:
        ema_statistics: Mean and variance of every batch-norm layer, for the momentum of the next batch; empty without
            momentum.
    """

    total: Float[Tensor, ""]
    label: Float[Tensor, ""]
    batch_norm: Float[Tensor, ""]
    disagreement: Float[Tensor, ""]
    ema_statistics: tuple[Tensor, ...] = ()

    def detach(self) -> InversionLoss:
        """The same without the graph: kept for a while, a graph pins the memory that its step has used."""
        return replace(self, total=self.total.detach())


def inversion_loss(
    classifier: InvertibleModel,
    pixels: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, "images"],
    preprocessing: Preprocessing,
    weights: InversionWeights,
    view: View,
    *,
    student: Student | None = None,
    earlier: Sequence[Tensor] = (),
) -> InversionLoss:
    """The loss of one member on all images assigned to it (PURER: papers 1.2; FREE: 2.2).

    Args:
        classifier: The member.
        pixels: In the normalised space of `preprocessing`.
        labels: Outputs of the member that the images are assigned to.
        preprocessing: Turns the pixels into images; the member then normalises with its own. Its image size may differ:
            the images are resized.
        weights: Of the terms.
        view: Of the whole batch, from `sample_view`.
        student: Whom the images should be hard for; None, or a weight of 0: nobody.
        earlier: Statistics of this member's earlier batches (`InversionLoss.ema_statistics`), for the momentum.
    """
    shifted = view.apply(pixels)
    images = shown = preprocessing.denormalise(shifted)
    size = classifier.size
    if images.shape[-1] != size:
        shown = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    zero = pixels.new_zeros(())
    batch_norm = zero
    ema_statistics: tuple[Tensor, ...] = ()
    if weights.batch_norm:
        logits, statistics = classifier.logits_and_statistics(shown)
        if statistics and weights.momentum:
            statistics = update_ema_statistics(statistics, earlier, weights.momentum)
            ema_statistics = tuple(part.detach() for layer in statistics for part in (layer.mean, layer.variance))
        batch_norm = batch_norm_distance(statistics, weights.first_layer) if statistics else zero
    else:
        logits = classifier.logits(shown)
    label = functional.cross_entropy(logits, labels)
    total = weights.label * label + weights.batch_norm * batch_norm
    if weights.total_variation:
        total = total + weights.total_variation * total_variation(shifted)
    if weights.l2:
        total = total + weights.l2 * torch.linalg.vector_norm(shifted)
    adversarial = zero
    if student is not None and weights.disagreement:
        with torch.set_grad_enabled(weights.student_gradient and torch.is_grad_enabled()):
            answers = student(images)
        adversarial = disagreement(logits, answers, weights.divergence)
        total = total - weights.disagreement * adversarial
    return InversionLoss(total, label.detach(), batch_norm.detach(), adversarial.detach(), ema_statistics)
