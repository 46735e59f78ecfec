"""The gradient of the inversion loss to the pixels of many members: member by member, or stacked.

Both give the same numbers up to rounding. Which is faster depends on the device (`dfml.zoo.stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.objectives import InversionLoss, InversionWeights, inversion_loss
from dfml.zoo.classifier import Preprocessing
from dfml.zoo.stack import MemberStack, StackedMember
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class MemberGradient:
    """Of one member's inversion loss: its gradient to the member's pixels, and the loss, detached."""

    pixels: Float[Tensor, "classes per_class 3 size size"]
    loss: InversionLoss


class InversionGradient:
    """Gradients of `dfml.inversion.objectives.inversion_loss` for members of a zoo, which stay in memory.

    Args:
        zoo: The members.
        preprocessing: Of the pixels.
        weights: Of the loss.
        stacked: Evaluate members of one architecture in one call.
    """

    def __init__(self, zoo: Zoo, preprocessing: Preprocessing, weights: InversionWeights, *, stacked: bool) -> None:
        self._zoo, self._preprocessing, self._weights = zoo, preprocessing, weights
        self._groups = list(zoo.groups().values()) if stacked else []
        self._stacks = [MemberStack([zoo[index] for index in group]) for group in self._groups]

    def __call__(
        self,
        members: Sequence[int],
        pixels: Sequence[Float[Tensor, "_classes per_class 3 size size"]],
        shifts: Sequence[tuple[int, int]],
    ) -> list[MemberGradient]:
        """Gradients for some members.

        Args:
            members: Their indices.
            pixels: For each, the pixels of its classes in the order of its outputs; not attached to any graph.
            shifts: For each, the circular shift of its images.
        """
        if not self._stacks:
            return [self._one(m, p, s) for m, p, s in zip(members, pixels, shifts, strict=True)]
        found: dict[int, MemberGradient] = {}
        place = {member: position for position, member in enumerate(members)}
        for group, stack in zip(self._groups, self._stacks, strict=True):
            rows = [row for row, member in enumerate(group) if member in place]
            if rows:
                positions = [place[group[row]] for row in rows]
                each = self._stacked(stack, rows, [pixels[p] for p in positions], [shifts[p] for p in positions])
                found.update(zip(positions, each, strict=True))
        return [found[position] for position in range(len(members))]

    def _one(self, member: int, pixels: Tensor, shift: tuple[int, int]) -> MemberGradient:
        leaf = pixels.flatten(0, 1).detach().requires_grad_()
        loss = inversion_loss(self._zoo[member], leaf, _labels(pixels), self._preprocessing, self._weights, shift)
        (gradient,) = torch.autograd.grad(loss.total, leaf)
        return MemberGradient(gradient.view(pixels.shape), loss)

    def _stacked(
        self, stack: MemberStack, rows: list[int], pixels: list[Tensor], shifts: list[tuple[int, int]]
    ) -> list[MemberGradient]:
        labels = _labels(pixels[0])

        def gradient(member: StackedMember, shifted: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            def loss(inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                found = inversion_loss(member, inputs, labels, self._preprocessing, self._weights, (0, 0))
                return found.total, (found.label, found.batch_norm)

            of_pixels, parts = torch.func.grad(loss, has_aux=True)(shifted)
            return of_pixels, parts

        # A shift differs by member and cannot be mapped: shift before, and shift the gradient back.
        shifted = torch.stack([torch.roll(p.flatten(0, 1), s, (2, 3)) for p, s in zip(pixels, shifts, strict=True)])
        gradients, (label, batch_norm) = stack.map(gradient, torch.tensor(rows, device=shifted.device), shifted)
        return [
            MemberGradient(
                torch.roll(gradients[i], (-shift[0], -shift[1]), (2, 3)).view(pixels[i].shape),
                InversionLoss(label[i], label[i], batch_norm[i]),
            )
            for i, shift in enumerate(shifts)
        ]


def _labels(pixels: Tensor) -> Tensor:
    classes, per_class = pixels.shape[:2]
    return torch.arange(classes, device=pixels.device).repeat_interleave(per_class)
