"""ANIL (Raghu et al. 2020): MAML that adapts the linear head only."""

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
    """The head follows the gradient of the support set's cross-entropy; the features are computed once.

    In the first-order form the backbone still learns through the query set.
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
