"""MAML: adapt all weights by gradient descent on the support set."""

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
    """Model-agnostic meta-learning (Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation", ICML 2017).

    The inner loop takes gradient steps of all weights on the cross-entropy of the support set. With
    `second_order=False` it is first-order MAML.
    """

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
    """Take gradient descent steps; differentiable.

    Args:
        start: Initial weights; the result is attached to their graph.
        loss: Function from weights to the loss.
        steps: Number of steps.
        lr: Learning rate.
        second_order: Keep the graph of every step. Otherwise each gradient is a constant, computed at a detached copy
            of the weights, and the graph of a step is freed before the next.

    Returns:
        Weights after the last step.
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
