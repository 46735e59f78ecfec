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
from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator
from torch import Tensor
from torch.nn import functional

from dfml.inversion.terms import LossForm, LossInputs, LossTerm, built_in_terms, create_extra_terms
from dfml.inversion.views import AnyView
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

    form: LossForm = "norms"
    """Form of the terms of the statistics and of the pixels. `means`: means in units that do not depend on the network,
    so that one set of weights suits every architecture and image size. `norms`: L2 norms summed over layers (PURER),
    which grow with the network and the batch."""
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
    """Largest shift of the images in pixels along either axis, drawn at every step; see `views`."""
    wrap: bool = True
    """Whether pixels that are shifted out come in again on the other side (PURER); False fills with the mean colour.
    Not used if `views` is image."""
    flip: bool = False
    """Whether to mirror horizontally with probability one half at every step."""
    views: Literal["batch", "image"] = "batch"
    """Images that share a random view (shift, mirror image, zoom, colours) at a step: the whole `batch` (PURER), or
    every `image` has its own; what is shifted out is then replaced by the mirrored border. Images that keep their class
    in many different views are recognised by other members far more often (docs/results/recovery.md)."""
    zoom: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest fraction of an image's area that a random crop cuts off, which is then enlarged to the whole; 0: no crop.
    Needs `views` image."""
    colour: NonNegativeFloat = 0.0
    """Standard deviation of the random change of an image's contrast, and of the random offset of each of its channels,
    in normalised space. Needs `views` image."""

    @model_validator(mode="after")
    def _views_of_images(self) -> InversionWeights:
        if self.views == "batch" and (self.zoom or self.colour):
            raise ValueError("zoom and colour are drawn for every image on its own: set views to image, or both to 0")
        return self

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
                form=self.form,
            ),
            *create_extra_terms(self.extra),
        )


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
        recognised: Fraction of the images that the model predicts as their labels; None where it was not computed.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    ema_statistics: tuple[Tensor, ...] = ()
    recognised: Float[Tensor, ""] | None = None

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
    view: AnyView,
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
        view: Random view of the images, from `dfml.inversion.views.sample_view`.
        student: Student logits; images maximise the divergence between model and student. None disables the term.
        previous_statistics: EMA statistics of earlier batches (`InversionLoss.ema_statistics`), for the momentum.
    """
    shifted = view.apply(pixels)
    predictions = predict(classifier, preprocessing.denormalise(shifted), weights, student=student)
    return combine_terms(shifted, preprocessing, labels, predictions, weights, previous_statistics)


@dataclass(frozen=True)
class Predictions:
    """What the terms need of a batch of images.

    Attributes:
        logits: Logits of the model.
        statistics: One entry per batch-norm layer of the model; empty if no term needs them.
        student_logits: Logits of the student; None without one, or if the disagreement has no weight.
    """

    logits: Float[Tensor, "images outputs"]
    statistics: Sequence[LayerStatistics]
    student_logits: Float[Tensor, "images outputs"] | None


def resize_to(images: Float[Tensor, "images 3 _size _size"], size: int) -> Float[Tensor, "images 3 size size"]:
    """Resize square images (bilinear, antialiased) unless they have the size; differentiable."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def predict(
    classifier: InvertibleModel,
    images: Float[Tensor, "images 3 size size"],
    weights: InversionWeights,
    *,
    student: StudentLogits | None = None,
) -> Predictions:
    """Predict a batch of images by the model and the student.

    Args:
        classifier: The model.
        images: Images, nominally in [0, 1], after the view.
        weights: Weights of the terms; what no term needs is not computed.
        student: Student logits; None without a student.
    """
    shown = resize_to(images, classifier.size)
    if any(term.needs_statistics for term in weights.terms()):
        logits, statistics = classifier.logits_and_statistics(shown)
    else:
        logits, statistics = classifier.logits(shown), []
    student_logits = None
    if student is not None and weights.disagreement:
        with torch.set_grad_enabled(weights.student_gradient and torch.is_grad_enabled()):
            student_logits = student(images)
    return Predictions(logits, statistics, student_logits)


def combine_terms(
    shifted: Float[Tensor, "images 3 size size"],
    preprocessing: Preprocessing,
    labels: Int64[Tensor, "images"],
    predictions: Predictions,
    weights: InversionWeights,
    previous_statistics: Sequence[Tensor] = (),
) -> InversionLoss:
    """Compute the loss of a batch from its predictions.

    Args:
        shifted: Images in normalised space after the view.
        preprocessing: See `inversion_loss`.
        labels: See there.
        predictions: What `predict` returned for the images.
        weights: See `inversion_loss`.
        previous_statistics: See there.
    """
    statistics = predictions.statistics
    ema_statistics: tuple[Tensor, ...] = ()
    if statistics and weights.momentum:
        statistics = update_ema_statistics(statistics, previous_statistics, weights.momentum)
        ema_statistics = tuple(part.detach() for layer in statistics for part in (layer.mean, layer.variance))
    logits = predictions.logits
    images = preprocessing.denormalise(shifted)
    inputs = LossInputs(shifted, images, labels, logits, statistics, predictions.student_logits)
    total: Tensor | None = None
    parts: dict[str, Tensor] = {}
    for term in weights.terms():
        value = term(inputs)
        if value is not None:
            parts[term.name] = value.detach()
            total = term.weight * value if total is None else total + term.weight * value
    assert total is not None
    recognised = (logits.detach().argmax(dim=1) == labels).to(total.dtype).mean()
    return InversionLoss(total, parts, ema_statistics, recognised)
