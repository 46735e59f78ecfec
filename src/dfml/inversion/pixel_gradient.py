"""The gradient of the inversion loss to the pixels of many members: member by member, or stacked.

Both give the same numbers up to rounding. Which is faster depends on the device (`dfml.zoo.stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.loss import InversionLoss, InversionWeights, View, inversion_loss
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.stack import MemberStack, StackedMember
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class MemberGradient:
    """Of one member's inversion loss: its gradient to the member's pixels, and the loss, detached."""

    pixels: Float[Tensor, "classes per_class 3 size size"]
    loss: InversionLoss


class InversionGradient:
    """Gradients of `dfml.inversion.loss.inversion_loss` for members of a zoo, which stay in memory.

    Args:
        zoo: The members.
        preprocessing: Of the pixels.
        weights: Of the loss.
        stacked: Evaluate members of one architecture in one call.
    """

    def __init__(self, zoo: Zoo, preprocessing: Preprocessing, weights: InversionWeights, *, stacked: bool) -> None:
        self._zoo, self._preprocessing, self._weights = zoo, preprocessing, weights
        self._groups = list(zoo.groups().values()) if stacked else []
        self._stacks = [MemberStack([zoo.classifier(index) for index in group]) for group in self._groups]

    def __call__(
        self,
        members: Sequence[int],
        pixels: Sequence[Float[Tensor, "_classes per_class 3 size size"]],
        views: Sequence[View],
    ) -> list[MemberGradient]:
        """Gradients for some members.

        Args:
            members: Their indices.
            pixels: For each, the pixels of its classes in the order of its outputs; not attached to any graph.
            views: For each, the view of its images that the member is shown.
        """
        if not self._stacks:
            return [self._one(m, p, v) for m, p, v in zip(members, pixels, views, strict=True)]
        found: dict[int, MemberGradient] = {}
        place = {member: position for position, member in enumerate(members)}
        for group, stack in zip(self._groups, self._stacks, strict=True):
            rows = [row for row, member in enumerate(group) if member in place]
            if rows:
                positions = [place[group[row]] for row in rows]
                each = self._stacked(stack, rows, [pixels[p] for p in positions], [views[p] for p in positions])
                found.update(zip(positions, each, strict=True))
        return [found[position] for position in range(len(members))]

    def _one(self, member: int, pixels: Tensor, view: View) -> MemberGradient:
        leaf = pixels.flatten(0, 1).detach().requires_grad_()
        loss = inversion_loss(
            self._zoo.classifier(member), leaf, _labels(pixels), self._preprocessing, self._weights, view
        )
        (gradient,) = torch.autograd.grad(loss.total, leaf)
        return MemberGradient(gradient.view(pixels.shape), loss.detach())

    def _stacked(
        self, stack: MemberStack, rows: list[int], pixels: list[Tensor], views: list[View]
    ) -> list[MemberGradient]:
        labels = _labels(pixels[0])

        def gradient(member: StackedMember, seen: Tensor) -> Any:
            def loss(inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                found = inversion_loss(member, inputs, labels, self._preprocessing, self._weights, View())
                return found.total, (found.label, found.batch_norm)

            return torch.func.grad_and_value(loss, has_aux=True)(seen)

        # A view differs by member and cannot be mapped: it is applied before, and its gradient taken after.
        leaves = [p.flatten(0, 1).detach().requires_grad_() for p in pixels]
        seen = torch.stack([view.apply(leaf) for leaf, view in zip(leaves, views, strict=True)])
        of_seen, (total, (label, batch_norm)) = stack.map(
            gradient, torch.tensor(rows, device=seen.device), seen.detach()
        )
        gradients = torch.autograd.grad(seen, leaves, of_seen)
        none = torch.zeros_like(label[0])
        return [
            MemberGradient(gradients[i].view(pixels[i].shape), InversionLoss(total[i], label[i], batch_norm[i], none))
            for i in range(len(rows))
        ]


def _labels(pixels: Tensor) -> Tensor:
    classes, per_class = pixels.shape[:2]
    return torch.arange(classes, device=pixels.device).repeat_interleave(per_class)
