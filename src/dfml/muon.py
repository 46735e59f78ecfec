"""Muon (Jordan et al., 2024), an optimiser of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Updates a matrix by about the orthogonal matrix nearest to the mean of its gradients (Jordan et al., 2024).

    It does what `torch.optim.Muon` does, which always multiplies in bfloat16. A CPU without instructions for it, which
    is most of them, takes tens of times longer for that than for float32, so that here CPUs multiply in float32.

    Args:
        weights: Matrices to train.
        lr: Learning rate. A matrix with more rows than columns has it times the square root of their ratio.
        momentum: Weight of the earlier gradients in their exponential mean, in [0, 1); used as in Nesterov's method.
        weight_decay: Fraction of a weight, times the learning rate, that a step subtracts from it.
    """

    def __init__(self, weights: Sequence[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient.

        Args:
            closure: Not supported; the optimisers of torch have it.
        """
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, weight: Tensor, gradient: Tensor, lr: float, momentum: float, weight_decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        rows, columns = weight.shape
        weight.mul_(1 - lr * weight_decay)
        direction = orthogonalise(gradient.lerp(mean, momentum))
        weight.add_(direction.to(weight.dtype), alpha=-lr * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Replace the singular values of a matrix by values near 1 (0.7 to 1.2), by five Newton-Schulz iterations.

    The polynomial and its coefficients are those of Jordan et al. (2024). On a CUDA device it computes, and returns, in
    bfloat16, elsewhere in float32.
    """
    precision = torch.bfloat16 if matrix.device.type == "cuda" else torch.float32
    is_tall = matrix.shape[0] > matrix.shape[1]
    rows = (matrix.T if is_tall else matrix).to(precision)
    point: Tensor = rows / rows.norm().clamp(min=_EPSILON)
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = point @ point.T
        point = first * point + (second * gram + third * (gram @ gram)) @ point
    return point.T if is_tall else point
