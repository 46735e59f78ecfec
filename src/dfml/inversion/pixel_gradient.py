"""Gradients of the inversion loss with respect to the pixels of many members: member by member, or stacked.

Both give the same numbers up to rounding. Which one is faster depends on the device (`dfml.zoo.stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.chunked_gradient import images_per_pass, inversion_gradient
from dfml.inversion.engine import Engine
from dfml.inversion.loss import InversionLoss, InversionWeights, inversion_loss
from dfml.inversion.views import AnyView, View
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.stack import MemberStack, StackedMember
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class MemberGradient:
    """The gradient of one member's inversion loss with respect to its pixels, and the loss, detached."""

    pixels: Float[Tensor, "classes per_class 3 size size"]
    loss: InversionLoss


class InversionGradient:
    """Gradients of `dfml.inversion.loss.inversion_loss` for members of a zoo, which stay in memory.

    Args:
        zoo: The members.
        preprocessing: Size, mean and standard deviation of the pixels.
        weights: Weights of the loss.
        stacked: Whether members of one architecture are evaluated in one call, as many of them as the memory allows.
        memory: Memory in bytes that one backward pass through members may take. The images of a member that take more
            are passed in chunks, which gives the same gradient.
    """

    def __init__(
        self,
        zoo: Zoo,
        preprocessing: Preprocessing,
        weights: InversionWeights,
        *,
        stacked: bool,
        memory: int = Engine.memory_limit,
    ) -> None:
        self._memory = memory
        self._zoo, self._preprocessing, self._weights = zoo, preprocessing, weights
        self._groups = list(zoo.groups().values()) if stacked else []
        self._stacks = [MemberStack([zoo.classifier(index) for index in group]) for group in self._groups]

    def __call__(
        self,
        members: Sequence[int],
        pixels: Sequence[Float[Tensor, "_classes per_class 3 size size"]],
        views: Sequence[AnyView],
    ) -> list[MemberGradient]:
        """Compute the gradients for some members.

        Args:
            members: Indices of the members.
            pixels: For each member the pixels of its classes in the order of its outputs, without a graph.
            views: For each member the view of its images.
        """
        if not self._stacks:
            return [self._one(m, p, v) for m, p, v in zip(members, pixels, views, strict=True)]
        found: dict[int, MemberGradient] = {}
        place = {member: position for position, member in enumerate(members)}
        for group, stack in zip(self._groups, self._stacks, strict=True):
            rows = [row for row, member in enumerate(group) if member in place]
            for part in self._parts(group, rows, pixels[place[group[rows[0]]]]) if rows else ():
                positions = [place[group[row]] for row in part]
                each = self._stacked(stack, part, [pixels[p] for p in positions], [views[p] for p in positions])
                found.update(zip(positions, each, strict=True))
        for position, member in enumerate(members):
            if position not in found:
                found[position] = self._one(member, pixels[position], views[position])
        return [found[position] for position in range(len(members))]

    def _parts(self, group: list[int], rows: list[int], pixels: Tensor) -> list[list[int]]:
        """Divide members of one stack into those that fit into one call; none if not even one member does."""
        images = pixels.flatten(0, 1)
        at_once = images_per_pass(self._zoo.classifier(group[rows[0]]), images, self._memory) // len(images)
        return [rows[start : start + at_once] for start in range(0, len(rows), at_once)] if at_once else []

    def _one(self, member: int, pixels: Tensor, view: AnyView) -> MemberGradient:
        classifier, images = self._zoo.classifier(member), pixels.flatten(0, 1)
        loss, gradient = inversion_gradient(
            classifier,
            images,
            _labels(pixels),
            self._preprocessing,
            self._weights,
            view,
            chunk=images_per_pass(classifier, images, self._memory),
        )
        return MemberGradient(gradient.view(pixels.shape), loss)

    def _stacked(
        self, stack: MemberStack, rows: list[int], pixels: list[Tensor], views: list[AnyView]
    ) -> list[MemberGradient]:
        labels = _labels(pixels[0])

        def gradient(member: StackedMember, seen: Tensor) -> Any:
            def loss(inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                found = inversion_loss(member, inputs, labels, self._preprocessing, self._weights, View())
                return found.total, found.parts

            return torch.func.grad_and_value(loss, has_aux=True)(seen)

        # Views differ between members and cannot be mapped: they are applied before, their gradient is taken after.
        leaves = [p.flatten(0, 1).detach().requires_grad_() for p in pixels]
        seen = torch.stack([view.apply(leaf) for leaf, view in zip(leaves, views, strict=True)])
        seen_gradients, (total, parts) = stack.map(gradient, torch.tensor(rows, device=seen.device), seen.detach())
        gradients = torch.autograd.grad(seen, leaves, seen_gradients)
        return [
            MemberGradient(
                gradients[i].view(pixels[i].shape),
                InversionLoss(total[i], {name: value[i] for name, value in parts.items()}),
            )
            for i in range(len(rows))
        ]


def _labels(pixels: Tensor) -> Tensor:
    classes, per_class = pixels.shape[:2]
    return torch.arange(classes, device=pixels.device).repeat_interleave(per_class)
