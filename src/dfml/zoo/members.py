"""Protocols of zoo members: `Predicts` (class probabilities) and `Differentiable` (gradients to the images as well).

A member that only predicts can be a teacher or part of an embedding. An inversion engine needs gradients: dfml's own
engines need a `PretrainedClassifier`, one of another package states what it needs (`EngineEntry.needs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.errors import QueryLimitError, ZooError
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics

_SUM_TOLERANCE = 0.01  # of the sum of a row: accepts rounded probabilities, refuses logits and percentages


@runtime_checkable
class Predicts(Protocol):
    """A classifier that returns probabilities, however it computes them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per output."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Input size of the classifier, and the mean and standard deviation with which it normalises its input.

        These are constants of the classifier, not statistics of its training images. Callers give images in [0, 1],
        not normalised.
        """
        ...

    @property
    def source(self) -> str:
        """Where the classifier comes from: a path, an address or any other description; used in messages."""
        ...

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of any number of images in [0, 1] of any size; every row sums to 1."""
        ...


@runtime_checkable
class Differentiable(Predicts, Protocol):
    """A classifier whose logits are differentiable with respect to the images."""

    @property
    def size(self) -> int:
        """Height and width of the network's input, in pixels."""
        ...

    @property
    def num_batch_norms(self) -> int:
        """Number of batch-norm layers with running statistics; may be 0."""
        ...

    def logits(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels"]:
        """Logits of one batch of images in [0, 1] at the network's input size; differentiable in the images."""
        ...

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        """Logits, and the statistics of every batch-norm layer's input in order of use; see `logits`."""
        ...

    def predict_logits(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Logits of any number of images in [0, 1] of any size: unlike `logits`, it resizes and works in batches."""
        ...


def teacher_logits(
    member: Predicts, images: Float[Tensor, "images 3 _height _width"]
) -> Float[Tensor, "images labels"]:
    """Logits of a `Differentiable` member; logarithm of the probabilities of a member that only predicts.

    The two are equivalent for softmax and distillation at any temperature. Probabilities of 0 are replaced by the
    smallest positive normal number of their type, so that the result is finite.

    Args:
        member: The teacher.
        images: Images in [0, 1] of any size.

    Raises:
        ZooError: If what a member that only predicts returns has the wrong shape, is negative or not finite, or has a
            row whose sum differs from 1 by more than 0.01.
        QueryLimitError: If the images would exceed the limit of a `CountedMember`.
    """
    if isinstance(member, Differentiable):
        return member.predict_logits(images)
    probabilities = member.predict_proba(images).to(images.device)
    expected = (len(images), len(member.labels))
    if probabilities.shape != expected:
        raise ZooError(
            f"zoo member {member.source}: expected probabilities of shape {expected}, found shape "
            f"{tuple(probabilities.shape)}; correct its predict_proba"
        )
    sums = probabilities.sum(dim=1)
    if not bool((probabilities >= 0).all()) or not bool(((sums - 1).abs() <= _SUM_TOLERANCE).all()):
        raise ZooError(
            f"zoo member {member.source}: expected probabilities, at least 0 and with sum 1 in every row, found "
            f"{float(probabilities.min()):.3g} as the smallest value and sums from {float(sums.min()):.3g} to "
            f"{float(sums.max()):.3g}; correct its predict_proba"
        )
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def query_members(
    members: Iterable[Predicts], images: Float[Tensor, "images 3 _height _width"]
) -> Float[Tensor, "images outputs"]:
    """`teacher_logits` of all members side by side; each member resizes the images to its own input size."""
    return torch.cat([teacher_logits(member, images) for member in members], dim=1)


def unmet_need(member: Predicts, needs: type, user: str) -> str | None:
    """Reason why a member cannot be used where gradients are needed, as part of a message; None if it can.

    Args:
        member: Member of a zoo.
        needs: `Differentiable`, or a class of differentiable members.
        user: Method or engine that needs them, for the message, such as "purer".
    """
    if isinstance(member, needs):
        return None
    if not isinstance(member, Differentiable):
        return f"it only predicts, and {user} needs gradients"
    return f"its type is {type(member).__name__}, and {user} needs {needs.__name__}"


def remaining_queries(member: Predicts) -> float:
    """Number of images that a member may still be queried with; infinite for all but a `CountedMember` with a limit."""
    if isinstance(member, CountedMember) and member.limit is not None:
        return float(member.limit - member.queried)
    return math.inf


def move_member(member: Predicts, device: torch.device) -> None:
    """Move a member to a device if it has a method `to`, as modules have; others receive images on any device."""
    move: Any = getattr(member, "to", None)
    if callable(move):
        move(device)


class CountedMember:
    """A member that counts the images it is queried with, and raises an error instead of exceeding a limit.

    It only predicts: the gradients of the wrapped member, if it has any, are hidden.

    Args:
        member: The member that is queried.
        limit: Largest number of images that the member may be queried with in total; None (default): no limit.

    Attributes:
        limit: The same number.
        queried: Number of images that the member has been queried with so far.
    """

    def __init__(self, member: Predicts, limit: int | None = None) -> None:
        self._member = member
        self.limit = limit
        self.queried = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per output."""
        return self._member.labels

    @property
    def preprocessing(self) -> Preprocessing:
        """See `Predicts.preprocessing`."""
        return self._member.preprocessing

    @property
    def source(self) -> str:
        """See `Predicts.source`."""
        return self._member.source

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of images in [0, 1] of any size.

        Raises:
            QueryLimitError: If these images would exceed the limit; the member is then not queried with any of them,
                and `queried` does not change.
        """
        if self.limit is not None and self.queried + len(images) > self.limit:
            raise QueryLimitError(
                f"zoo member {self.source}: {len(images)} further images would exceed its limit of {self.limit} "
                f"({self.queried} are used up); raise the limit or query it with fewer images"
            )
        self.queried += len(images)
        return self._member.predict_proba(images)

    def to(self, device: torch.device) -> CountedMember:
        """Move the member to a device; returns itself."""
        move_member(self._member, device)
        return self
