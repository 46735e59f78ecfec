"""MAML (Finn et al. 2017): adapt all weights by gradient descent on the support set."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.learners.gradient import GradientLearner, head_for
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
        adapted = head_for(parameters, way)
        statistics: Statistics = {}
        for _ in range(steps):
            # First order differentiates at a detached copy: the graph of a step is freed before the next.
            point = adapted if second_order else leaves(adapted)
            with torch.enable_grad():
                features, statistics = self.network.features(point, inputs)
                logits = functional.linear(features, point["head.weight"], point["head.bias"])
                loss = functional.cross_entropy(logits, labels)
                gradients = torch.autograd.grad(loss, list(point.values()), create_graph=second_order)
            adapted = {
                name: value - self.config.inner_lr * gradient
                for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
            }
        if not second_order:
            statistics = {name: value.detach() for name, value in statistics.items()}
        return adapted, statistics


def leaves(parameters: Parameters) -> Parameters:
    """The same values, cut from the graph, taking gradients."""
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}
