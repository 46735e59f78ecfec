"""The terms of the inversion loss: small objects with a weight; terms of other packages join them by name.

A term from outside is registered with `register_loss_term`, or announced by an installed package as an entry point of
`dfml.loss_terms`, and gets its weight by a setting such as `--set purer.inversion.extra={edges: 0.1}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.divergences import kl_divergence
from dfml.registries import Registry
from dfml.zoo.statistics import LayerStatistics

_JS_TEMPERATURE = 3.0  # of both distributions in DeepInversion's Jensen-Shannon term


@dataclass(frozen=True)
class LossInputs:
    """What the terms are computed from: one batch of images in front of one member.

    Attributes:
        pixels: The images in normalised space, after the view.
        images: The same in [0, 1], not clipped, in the size in which they are kept.
        labels: For every image the output of the member that it is assigned to.
        logits: The member's logits; differentiable.
        statistics: Statistics of its batch-norm layers in order of use; empty if it has none, or no term needs them.
        student_logits: The student's logits for the same outputs; None without a student.
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

    Attributes:
        name: Name of the term in `InversionLoss.parts` and, for terms from outside, in the metrics.
        weight: Factor of the value in the sum; negative to reward a large value.
        needs_statistics: Whether it reads `LossInputs.statistics`; computing them costs time.
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
        """The value without its weight; differentiable in the pixels. None where the term does not apply."""


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
    """Distance between the batch's and the running statistics; see `batch_norm_distance`."""

    weight: float
    first_layer: float = 1.0
    name: str = "batch_norm"
    needs_statistics: bool = True

    def __call__(self, inputs: LossInputs) -> Tensor | None:
        """See `LossTerm`."""
        return batch_norm_distance(inputs.statistics, self.first_layer) if inputs.statistics else None


@dataclass(frozen=True)
class TotalVariationTerm:
    """Total variation of the pixels; see `total_variation`."""

    weight: float
    name: str = "total_variation"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """See `LossTerm`."""
        return total_variation(inputs.pixels)


@dataclass(frozen=True)
class L2Term:
    """L2 norm of all pixels of the batch together, not squared."""

    weight: float
    name: str = "l2"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """See `LossTerm`."""
        norm: Tensor = torch.linalg.vector_norm(inputs.pixels)
        return norm


@dataclass(frozen=True)
class DisagreementTerm:
    """Divergence between member and student; see `disagreement`. A negative weight maximises it."""

    weight: float
    divergence: str = "kl"
    name: str = "disagreement"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor | None:
        """See `LossTerm`."""
        if inputs.student_logits is None:
            return None
        return disagreement(inputs.logits, inputs.student_logits, self.divergence)


def own_terms(
    *,
    label: float,
    batch_norm: float,
    first_layer: float,
    total_variation: float,
    l2: float,
    disagreement: float,
    divergence: str,
) -> tuple[LossTerm, ...]:
    """Dfml's own terms in their fixed order, without those of weight 0 (the label term is always there)."""
    rest: tuple[LossTerm, ...] = (
        BatchNormTerm(batch_norm, first_layer),
        TotalVariationTerm(total_variation),
        L2Term(l2),
        DisagreementTerm(-disagreement, divergence),
    )
    return (LabelTerm(label), *(term for term in rest if term.weight))


_EXTRA: Registry[Callable[[float], LossTerm]] = Registry("loss term", "dfml.loss_terms", {})


def register_loss_term(name: str, create: Callable[[float], LossTerm]) -> None:
    """Make a loss term available to the setting `extra` of `InversionWeights`.

    Args:
        name: Name in the setting and in `InversionLoss.parts`.
        create: Called with the weight from the settings.
    """
    _EXTRA.register(name, create)


def create_extra_terms(weights: Mapping[str, float]) -> tuple[LossTerm, ...]:
    """The terms from outside the package that have a weight.

    Raises:
        UsageError: If no term of a name is registered or announced.
    """
    return tuple(_EXTRA.find(name)(weight) for name, weight in weights.items() if weight)


def batch_norm_distance(statistics: Sequence[LayerStatistics], first_layer: float = 1.0) -> Float[Tensor, ""]:
    """Distance of a batch's batch-norm statistics from the running ones (PURER, inversion loss).

    Sum over layers of ||variance - running variance||_2 + ||mean - running mean||_2, over channels, not squared.

    Args:
        statistics: One entry per batch-norm layer; at least one.
        first_layer: Factor of the first layer.
    """
    distances = [
        torch.linalg.vector_norm(layer.variance - layer.running_variance)
        + torch.linalg.vector_norm(layer.mean - layer.running_mean)
        for layer in statistics
    ]
    return torch.stack([distances[0] * first_layer, *distances[1:]]).sum()


def total_variation(pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, ""]:
    """Sum of the L2 norms of the horizontal, vertical and both diagonal differences of adjacent pixels."""
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
    """Divergence between the predictions of a member and of the student on some images; at least 0.

    Args:
        member: Logits of the member.
        student: Logits of the student for the same outputs.
        divergence: `kl`: mean over images of KL(member || student) where both predict the same class, 0 elsewhere, so
            that images keep their class and become those that the student is unsure of (CMI, FREE). `js`:
            Jensen-Shannon divergence at temperature 3, divided by ln 2, so that it is at most 1 (DeepInversion).
    """
    if divergence == "kl":
        p, q = functional.log_softmax(member, dim=1), functional.log_softmax(student, dim=1)
        agreed = member.argmax(dim=1) == student.argmax(dim=1)
        return (kl_divergence(p, q) * agreed).mean()
    p, q = (functional.log_softmax(logits / _JS_TEMPERATURE, dim=1) for logits in (member, student))
    middle = torch.logaddexp(p, q) - math.log(2.0)
    both = (kl_divergence(p, middle) + kl_divergence(q, middle)).mean()
    return both / (2.0 * math.log(2.0))
