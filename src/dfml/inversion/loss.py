"""The inversion loss: what images must satisfy to look like the training images of a classifier.

Sources: PURER (Hu et al., CVPR 2023, arXiv 2303.11183), DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795), CMI
(Fang et al., IJCAI 2021, arXiv 2105.08584), FastDFKD (Fang et al., AAAI 2022, arXiv 2112.06253); docs/papers.md has the
equations.

The loss is a list of terms (`dfml.inversion.terms`). Pixels are in normalised space: an image in [0, 1] is
`mean + std * pixels`. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.nn import functional

from dfml.inversion.terms import LossInputs, LossTerm, built_in_terms, create_extra_terms
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics

StudentLogits = Callable[[Float[Tensor, "images 3 size size"]], Float[Tensor, "images outputs"]]
"""A student's logits for the outputs of one member, for images in [0, 1] (nominally: pixels are not clipped)."""


@runtime_checkable
class InvertibleModel(Protocol):
    """A model that images can be recovered from: a `PretrainedClassifier`, one of a stack, or an adapted network."""

    @property
    def size(self) -> int:
        """Height and width of its input in pixels."""

    def logits(self, images: Float[Tensor, "images 3 size size"], /) -> Float[Tensor, "images outputs"]:
        """Logits of images in [0, 1] of the model's size; differentiable."""

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 size size"], /
    ) -> tuple[Float[Tensor, "images outputs"], list[LayerStatistics]]:
        """Logits, and for every batch-norm layer the statistics of the batch beside the running ones."""


class InversionWeights(FrozenSettings):
    """Weights of the terms of the inversion loss; the defaults are those of PURER. Weight 0 disables a term."""

    label: NonNegativeFloat = 1.0
    """Weight of the cross-entropy between the member's logits and the assigned labels."""
    batch_norm: NonNegativeFloat = 0.01
    """Weight of the distance between the batch's statistics and the running statistics of the batch-norm layers."""
    first_layer: NonNegativeFloat = 1.0
    """Factor by which the distance of the first batch-norm layer is multiplied (DeepInversion on ImageNet: 10)."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """EMA coefficient of the statistics of a member's earlier batches, in [0, 1); 0 compares the current batch alone
    (FastDFKD: 0.9)."""
    disagreement: NonNegativeFloat = 0.0
    """Weight of the reward for images on which the student's predictions differ from the member's (CMI, FastDFKD, FREE:
    adversarial loss)."""
    divergence: Literal["kl", "js"] = "kl"
    """Divergence of member and student: `kl`, Kullback-Leibler on images where both predict the same class (CMI, FREE),
    or `js`, Jensen-Shannon (DeepInversion)."""
    student_gradient: bool = True
    """Whether the gradient of the disagreement also flows through the student to the images; the released code of FREE
    has False."""
    total_variation: NonNegativeFloat = 1e-4
    """Weight of the total variation of the pixels, an image prior."""
    l2: NonNegativeFloat = 1e-5
    """Weight of the L2 norm of the pixels, an image prior."""
    extra: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Weights of loss terms from outside the package, by the names under which they are registered."""
    jitter: NonNegativeInt = 2
    """Largest shift of the images in pixels along either axis, drawn at every step for the whole batch."""
    wrap: bool = True
    """Whether pixels that are shifted out come in again on the other side (PURER); False fills with the mean colour."""
    flip: bool = False
    """Whether the whole batch is mirrored horizontally with probability one half at every step."""

    def terms(self) -> tuple[LossTerm, ...]:
        """Create the terms of the loss whose weight is not 0, dfml's own first; the label term is always the first."""
        return (
            *built_in_terms(
                label=self.label,
                batch_norm=self.batch_norm,
                first_layer=self.first_layer,
                total_variation=self.total_variation,
                l2=self.l2,
                disagreement=self.disagreement,
                divergence=self.divergence,
            ),
            *create_extra_terms(self.extra),
        )


@dataclass(frozen=True)
class View:
    """A shift and a mirror image of a whole batch, applied before a member sees it.

    Attributes:
        rows: Shift downwards in pixels.
        columns: Shift to the right in pixels.
        flip: Whether to mirror horizontally, after the shift.
        wrap: Whether pixels that are shifted out come in on the other side; otherwise zeros (the mean colour) come in.
    """

    rows: int = 0
    columns: int = 0
    flip: bool = False
    wrap: bool = True

    def apply(self, pixels: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
        """Return the view of a batch in normalised space; differentiable."""
        if self.rows or self.columns:
            pixels = torch.roll(pixels, (self.rows, self.columns), dims=(-2, -1)) if self.wrap else self._shift(pixels)
        return pixels.flip(-1) if self.flip else pixels

    def _shift(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        top, left = max(self.rows, 0), max(self.columns, 0)
        padded = functional.pad(pixels, (left, max(-self.columns, 0), top, max(-self.rows, 0)))
        return padded[..., top - self.rows :, left - self.columns :][..., :height, :width]


def sample_view(weights: InversionWeights, generator: torch.Generator) -> View:
    """Draw a view: offsets in [-jitter, jitter] along both axes, and whether to mirror."""
    rows, columns = torch.randint(-weights.jitter, weights.jitter + 1, (2,), generator=generator).tolist()
    flip = weights.flip and bool(torch.randint(2, (1,), generator=generator))
    return View(rows, columns, flip, weights.wrap)


def update_ema_statistics(
    statistics: Sequence[LayerStatistics], previous: Sequence[Tensor], momentum: float
) -> list[LayerStatistics]:
    """Replace the statistics of a batch by their exponential moving average over batches (FastDFKD).

    Args:
        statistics: Statistics of the current batch, one entry per batch-norm layer.
        previous: Mean and variance of every layer after the last batch (`InversionLoss.ema_statistics`), alternating;
            empty for the first batch, whose own statistics are returned.
        momentum: EMA coefficient of the previous statistics, in [0, 1).
    """
    if not previous:
        return list(statistics)
    return [
        replace(
            layer,
            mean=torch.lerp(layer.mean, previous[2 * index], momentum),
            variance=torch.lerp(layer.variance, previous[2 * index + 1], momentum),
        )
        for index, layer in enumerate(statistics)
    ]


@dataclass(frozen=True)
class InversionLoss:
    """The weighted sum of the terms, and the terms.

    Attributes:
        total: Weighted sum; differentiable.
        parts: Value of every computed term by name, not weighted, detached.
        ema_statistics: Mean and variance of every batch-norm layer for the momentum of the next batch, alternating;
            empty without momentum.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    ema_statistics: tuple[Tensor, ...] = ()

    @property
    def label(self) -> Float[Tensor, ""]:
        """Cross-entropy of the assigned labels in nats."""
        return self._part("label")

    @property
    def batch_norm(self) -> Float[Tensor, ""]:
        """Distance of the batch-norm statistics; 0 where it was not computed."""
        return self._part("batch_norm")

    @property
    def disagreement(self) -> Float[Tensor, ""]:
        """Disagreement of member and student; 0 where it was not computed."""
        return self._part("disagreement")

    def _part(self, name: str) -> Tensor:
        value = self.parts.get(name)
        return torch.zeros_like(self.total, requires_grad=False) if value is None else value

    def detach(self) -> InversionLoss:
        """Return the loss without its graph, which would keep the memory of a step alive."""
        return replace(self, total=self.total.detach())


def inversion_loss(
    classifier: InvertibleModel,
    pixels: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, "images"],
    preprocessing: Preprocessing,
    weights: InversionWeights,
    view: View,
    *,
    student: StudentLogits | None = None,
    previous_statistics: Sequence[Tensor] = (),
) -> InversionLoss:
    """Compute the inversion loss of one model on a batch of images (PURER, inversion loss; FREE, FIVE).

    Args:
        classifier: The model that the images are recovered from.
        pixels: Images in the normalised space of `preprocessing`.
        labels: For every image the output of the model that it is assigned to.
        preprocessing: Mean and standard deviation that turn pixels into images in [0, 1]; the model then normalises
            with its own. Images of another size than the model's input are resized.
        weights: Weights of the terms.
        view: Shift and mirror image of the whole batch, from `sample_view`.
        student: Student logits; images maximise the divergence between model and student. None disables the term.
        previous_statistics: EMA statistics of earlier batches (`InversionLoss.ema_statistics`), for the momentum.
    """
    shifted = view.apply(pixels)
    images = shown = preprocessing.denormalise(shifted)
    size = classifier.size
    if images.shape[-1] != size:
        shown = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    terms = weights.terms()
    statistics: list[LayerStatistics] = []
    ema_statistics: tuple[Tensor, ...] = ()
    if any(term.needs_statistics for term in terms):
        logits, statistics = classifier.logits_and_statistics(shown)
        if statistics and weights.momentum:
            statistics = update_ema_statistics(statistics, previous_statistics, weights.momentum)
            ema_statistics = tuple(part.detach() for layer in statistics for part in (layer.mean, layer.variance))
    else:
        logits = classifier.logits(shown)
    student_logits = None
    if student is not None and weights.disagreement:
        with torch.set_grad_enabled(weights.student_gradient and torch.is_grad_enabled()):
            student_logits = student(images)
    inputs = LossInputs(shifted, images, labels, logits, statistics, student_logits)
    total: Tensor | None = None
    parts: dict[str, Tensor] = {}
    for term in terms:
        value = term(inputs)
        if value is not None:
            parts[term.name] = value.detach()
            total = term.weight * value if total is None else total + term.weight * value
    assert total is not None
    return InversionLoss(total, parts, ema_statistics)
