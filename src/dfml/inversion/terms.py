"""The terms of the inversion loss: objects with a name and a weight that compute one value from a batch of images.

Other packages can add terms. In Python, `register_loss_term` adds one; on the command line, a term is available if an
installed package declares it as an entry point of the group `dfml.loss_terms`. A term is used if the setting `extra` of
`InversionWeights` has a weight for its name, for example `--set 'purer.inversion.extra={edges: 0.1}'` in a shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.errors import UsageError
from dfml.inversion.term_values import (
    batch_norm_distance,
    disagreement,
    mean_total_variation,
    standardised_batch_norm_distance,
    total_variation,
)
from dfml.registries import Registry
from dfml.zoo.statistics import LayerStatistics

BUILT_IN_TERMS = ("label", "batch_norm", "total_variation", "l2", "disagreement")
"""Names of dfml's own terms."""

LossForm = Literal["means", "norms"]
"""Form of the terms of the batch-norm statistics and of the pixels.

`means`: means over layers, channels and pixels; statistics in units of each layer's own normalisation. The values do
not grow with the depth of the network, the size of the images or of the batch, so one set of weights suits all.
`norms`: L2 norms over the channels and over the whole batch, summed over layers (PURER). They grow with all of these:
about 10 for the statistics of a Conv4, thousands for a ResNet-18.
"""

_RESERVED = (*BUILT_IN_TERMS, "loss")  # the metric of a term `loss` would be `inversion_loss`, which is the label term


@dataclass(frozen=True)
class LossInputs:
    """The inputs of all terms: one batch of images and the predictions of one member for them.

    Attributes:
        pixels: Images after this step's random view (`dfml.inversion.views`), normalised with the mean
            and standard deviation of the engine (the engine `ei`: those of the member).
        images: The same images, denormalised: nominally in [0, 1], but not clipped. They have the size at which they
            are optimised; the member sees them resized to its own input size.
        labels: For every image, the index of the member's output (class) that the image shall show.
        logits: Logits of the member for these images; differentiable in the pixels.
        statistics: One entry per batch-norm layer of the member, in order of use: mean and variance of this batch (with
            `InversionWeights.momentum`: their moving average over batches) beside the running mean and variance. Empty
            if the member has no such layer or no term needs them.
        student_logits: Logits of the student for the member's classes, in their order. None if there is no student or
            `InversionWeights.disagreement` is 0; without gradient if `InversionWeights.student_gradient` is False.
    """

    pixels: Float[Tensor, "images 3 size size"]
    images: Float[Tensor, "images 3 size size"]
    labels: Int64[Tensor, "images"]
    logits: Float[Tensor, "images outputs"]
    statistics: Sequence[LayerStatistics]
    student_logits: Float[Tensor, "images outputs"] | None


@runtime_checkable
class LossTerm(Protocol):
    """One term of the inversion loss.

    The loss is the sum of `weight` times the value over all terms. A term from another package is created with the
    weight in the settings, which is at least 0: a term that rewards a large value returns the value negated. Methods
    that recover images by an engine (`ImageSource`) report its value, without the weight, as the metric
    `inversion_NAME`; `purer` does not. Of dfml's own terms only the label term is reported, as `inversion_loss`.

    Attributes:
        name: Name of the term, its key in `InversionLoss.parts`. For a term from another package, the name under which
            it is registered, and neither `loss` nor one of `BUILT_IN_TERMS`.
        weight: Factor of the value in the loss.
        needs_statistics: Whether the term reads `LossInputs.statistics`; computing them costs time.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def weight(self) -> float:
        """See above."""

    @property
    def needs_statistics(self) -> bool:
        """See above."""

    def __call__(self, inputs: LossInputs) -> Float[Tensor, ""] | None:
        """Compute the value without its weight; differentiable in the pixels. None if the term does not apply."""


@dataclass(frozen=True)
class LabelTerm:
    """Cross-entropy between the member's logits and the assigned labels, in nats."""

    weight: float
    name: str = "label"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """See `LossTerm`."""
        return functional.cross_entropy(inputs.logits, inputs.labels)


@dataclass(frozen=True)
class BatchNormTerm:
    """Distance between the batch's and the running statistics.

    Attributes:
        first_layer: Factor by which the distance of the first layer is multiplied; default 1.
        form: `means`: `standardised_batch_norm_distance`; `norms`: `batch_norm_distance`.
    """

    weight: float
    first_layer: float = 1.0
    form: LossForm = "norms"
    name: str = "batch_norm"
    needs_statistics: bool = True

    def __call__(self, inputs: LossInputs) -> Tensor | None:
        """See `LossTerm`."""
        if not inputs.statistics:
            return None
        distance = batch_norm_distance if self.form == "norms" else standardised_batch_norm_distance
        return distance(inputs.statistics, self.first_layer)


@dataclass(frozen=True)
class TotalVariationTerm:
    """Differences of adjacent pixels.

    Attributes:
        form: `means`: `mean_total_variation`; `norms`: `total_variation`.
    """

    weight: float
    form: LossForm = "norms"
    name: str = "total_variation"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """See `LossTerm`."""
        return total_variation(inputs.pixels) if self.form == "norms" else mean_total_variation(inputs.pixels)


@dataclass(frozen=True)
class L2Term:
    """Size of the pixels in normalised space.

    Attributes:
        form: `means`: mean square of all pixels; `norms`: L2 norm of all pixels of the batch together, not squared,
            which grows with the square root of their number.
    """

    weight: float
    form: LossForm = "norms"
    name: str = "l2"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """See `LossTerm`."""
        if self.form == "means":
            return inputs.pixels.square().mean()
        norm: Tensor = torch.linalg.vector_norm(inputs.pixels)
        return norm


@dataclass(frozen=True)
class DisagreementTerm:
    """Divergence between member and student; see `disagreement`. With a negative weight, the images maximise it."""

    weight: float
    divergence: Literal["kl", "js"] = "kl"
    name: str = "disagreement"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor | None:
        """See `LossTerm`."""
        if inputs.student_logits is None:
            return None
        return disagreement(inputs.logits, inputs.student_logits, self.divergence)


def built_in_terms(
    *,
    label: float,
    batch_norm: float,
    first_layer: float,
    total_variation: float,
    l2: float,
    disagreement: float,
    divergence: Literal["kl", "js"],
    form: LossForm = "norms",
) -> tuple[LossTerm, ...]:
    """Create dfml's own terms in a fixed order, without those of weight 0.

    The label term is created even if its weight is 0, because failures are detected by its value, the cross-entropy,
    which is also a metric of every run.

    Args:
        label: Weight of the cross-entropy.
        batch_norm: Weight of the distance of the batch-norm statistics.
        first_layer: Factor by which the distance of the first batch-norm layer is multiplied.
        total_variation: Weight of the total variation.
        l2: Weight of the L2 norm of the pixels.
        disagreement: Weight of the reward for a large divergence between member and student; at least 0. The term gets
            this weight with a negative sign.
        divergence: Kind of that divergence; see `disagreement`.
        form: Form of the terms of the statistics and of the pixels; see `LossForm`.
    """
    others: tuple[LossTerm, ...] = (
        BatchNormTerm(batch_norm, first_layer, form),
        TotalVariationTerm(total_variation, form),
        L2Term(l2, form),
        DisagreementTerm(-disagreement, divergence),
    )
    return (LabelTerm(label), *(term for term in others if term.weight))


_EXTRA: Registry[Callable[[float], LossTerm]] = Registry("loss term", "dfml.loss_terms", {})


def register_loss_term(name: str, create: Callable[[float], LossTerm]) -> None:
    """Make a loss term available to the setting `extra` of `InversionWeights`, in this process.

    Args:
        name: Name of the term in the setting; also the attribute `name` of the created term.
        create: Function or class that is called with the weight in the settings and returns the term.

    Raises:
        UsageError: If the name is reserved for dfml.
    """
    _require_free_name(name)
    _EXTRA.register(name, create)


def create_extra_terms(weights: Mapping[str, float]) -> tuple[LossTerm, ...]:
    """Create the terms from other packages whose weight is not 0.

    Args:
        weights: Name of a term -> its weight.

    Raises:
        UsageError: If no term of a name is registered or declared as an entry point, the name is reserved for dfml, or
            the created term has another name.
    """
    return tuple(_create_extra_term(name, weight) for name, weight in weights.items() if weight)


def _create_extra_term(name: str, weight: float) -> LossTerm:
    _require_free_name(name)
    term = _EXTRA.find(name)(weight)
    if term.name != name:
        raise UsageError(
            f"the loss term {name!r}: expected the created object's `name` to be {name!r}, found {term.name!r}; use "
            "one name for the term and its registration"
        )
    return term


def _require_free_name(name: str) -> None:
    if name in _RESERVED:
        raise UsageError(f"the name {name!r} of a loss term is reserved for dfml; give yours another name")
