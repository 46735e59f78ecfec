"""Divergences between predictions, shared by inversion (disagreement) and distillation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def kl_divergence(
    teacher: Float[Tensor, "*batch outputs"], student: Float[Tensor, "*batch outputs"]
) -> Float[Tensor, "*batch"]:
    """KL divergence KL(teacher || student) of every row; gradients reach both arguments.

    Args:
        teacher: Log-probabilities of the teacher, along the last axis.
        student: Log-probabilities of the student for the same outputs.

    Returns:
        One divergence per row, in nats; non-negative up to rounding.
    """
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
