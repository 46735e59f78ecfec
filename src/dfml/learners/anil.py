"""ANIL: adapt the linear head by gradient descent on the support set."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.learners.gradient_based import GradientLearner, head_for
from dfml.learners.maml import descend
from dfml.learners.network import Parameters, Statistics


class ANIL(GradientLearner):
    """Almost no inner loop (Raghu et al., "Rapid Learning or Feature Reuse?", ICLR 2020): MAML for the head only.

    Features of the support set are computed once; the inner loop takes gradient steps of the head. With
    `second_order=False` the backbone receives gradients through the query set only.
    """

    kind: ClassVar[str] = "anil"

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
        with torch.set_grad_enabled(second_order):
            features, statistics = self.network.features(parameters, inputs)

        def loss(head: Parameters) -> Tensor:
            logits = functional.linear(features, head["head.weight"], head["head.bias"])
            return functional.cross_entropy(logits, labels)

        start = head_for(parameters, way)
        head = {name: start[name] for name in ("head.weight", "head.bias")}
        head = descend(head, loss, steps=steps, lr=self.config.inner_lr, second_order=second_order)
        return {**start, **head}, statistics
