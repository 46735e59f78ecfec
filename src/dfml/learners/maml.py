"""MAML (Finn et al. 2017): adapt all weights by gradient descent on the support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.learners.gradient_based import GradientLearner, head_for
from dfml.learners.network import Parameters, Statistics


class MAML(GradientLearner):
    """All weights follow the gradient of the support set's cross-entropy (papers 1.4)."""

    kind: ClassVar[str] = "maml"

    def inner_loop(
        self,
        parameters: Parameters,
        inputs: Float[Tensor, "support 3 size size"],
        labels: Int64[Tensor, "support"],
        *,
        way: int,
        steps: int,
        second_order: bool,
    ) -> tuple[Parameters, Statistics]:
        """See `GradientLearner.inner_loop`."""
        statistics: Statistics = {}

        def loss(point: Parameters) -> Tensor:
            nonlocal statistics
            features, statistics = self.network.features(point, inputs)
            logits = functional.linear(features, point["head.weight"], point["head.bias"])
            return functional.cross_entropy(logits, labels)

        start = head_for(parameters, way)
        adapted = descend(start, loss, steps=steps, lr=self.config.inner_lr, second_order=second_order)
        if not second_order:
            statistics = {name: value.detach() for name, value in statistics.items()}
        return adapted, statistics


def descend(
    start: Parameters, loss: Callable[[Parameters], Tensor], *, steps: int, lr: float, second_order: bool
) -> Parameters:
    """Gradient descent on some weights.

    Args:
        start: Where it begins; the result is attached to its graph.
        loss: Of the weights at a point.
        steps: How many.
        lr: Learning rate.
        second_order: Keep the graph of every step. Otherwise each gradient is a constant, taken at a detached copy, and
            the graph of a step is freed before the next.
    """
    adapted = start
    for _ in range(steps):
        with torch.enable_grad():
            point = adapted if second_order else {n: v.detach().requires_grad_() for n, v in adapted.items()}
            gradients = torch.autograd.grad(loss(point), list(point.values()), create_graph=second_order)
        adapted = {
            name: value - lr * gradient for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
        }
    return adapted
