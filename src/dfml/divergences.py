"""Divergences between predictions, shared by inversion (disagreement) and distillation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def kl_divergence(
    teacher: Float[Tensor, "*batch outputs"], student: Float[Tensor, "*batch outputs"]
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) of every row, in nats, at least 0; differentiable in both arguments.

    Args:
        teacher: Log-probabilities along the last axis.
        student: Log-probabilities of the same outputs.
    """
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
