"""What a zoo member can do: `Predicts` (a black box suffices) and `Differentiable` (gradients to the images as well).

A member that only predicts can be a teacher or part of an embedding. Inversion needs a `Differentiable` member.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.errors import QueryLimitError, ZooError
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics


@runtime_checkable
class Predicts(Protocol):
    """A classifier that returns probabilities, however it computes them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per output."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Image size that the classifier works at, and the mean and standard deviation of its training images."""
        ...

    @property
    def source(self) -> str:
        """Where the classifier comes from: a path, an address or any other description; used in messages."""
        ...

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of images in [0, 1] of any size."""
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
        """Logits of images in [0, 1] at the network's input size."""
        ...

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        """Logits, and the statistics of every batch-norm layer's input in order of use."""
        ...

    def predict_logits(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Logits of any number of images in [0, 1] of any size."""
        ...


def teacher_logits(
    member: Predicts, images: Float[Tensor, "images 3 _height _width"]
) -> Float[Tensor, "images labels"]:
    """Logits of a member; log-probabilities, at least the smallest normal number's, of one that only predicts.

    Both have the same softmax at any temperature.

    Args:
        member: The teacher.
        images: In [0, 1], any size.

    Raises:
        ZooError: If the probabilities of a member that only predicts have the wrong shape, or are not probabilities.
        QueryLimitError: If a `CountedMember` has reached its limit.
    """
    if isinstance(member, Differentiable):
        return member.predict_logits(images)
    probabilities = member.predict_proba(images).to(images.device)
    expected = (len(images), len(member.labels))
    if probabilities.shape != expected or not bool((probabilities >= 0).all()):
        raise ZooError(
            f"zoo member {member.source}: expected probabilities of shape {expected}, found values of shape "
            f"{tuple(probabilities.shape)}, the smallest {float(probabilities.min()):.3g}; correct its predict_proba"
        )
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def query_members(
    members: Iterable[Predicts], images: Float[Tensor, "images 3 _height _width"]
) -> Float[Tensor, "images outputs"]:
    """`teacher_logits` of all members side by side; each member resizes the images to its own input size."""
    return torch.cat([teacher_logits(member, images) for member in members], dim=1)


def move_member(member: Predicts, device: torch.device) -> None:
    """Move a member to a device if it has a method `to`, as modules have; others receive images on any device."""
    move: Any = getattr(member, "to", None)
    if callable(move):
        move(device)


class CountedMember:
    """A member that counts the images it is queried with, and refuses those beyond a limit. It only predicts.

    Args:
        member: The member that is queried.
        limit: Largest number of images over its lifetime; None for no limit.

    Attributes:
        queried: Number of images that it has been queried with.
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
            QueryLimitError: If the limit would be exceeded; the member is then not queried at all.
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
