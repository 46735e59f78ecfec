"""ProtoNet: nearest prototype in feature space."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters, Statistics
from dfml.learners.prototypes import prototypes


class ProtoNet(GradientLearner):
    """Prototypical network (Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017).

    A class is represented by its prototype, the mean feature of its support images; the logit of a query image is its
    negative squared Euclidean distance to the prototype. Because -||f - c||^2 = 2 c.f - ||c||^2 - ||f||^2, and the last
    term is the same for all classes, adaptation is a linear head in closed form. Gradients always pass through it:
    `second_order` and the number of inner steps have no effect.
    """

    kind: ClassVar[str] = "protonet"

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
        features, statistics = self.network.features(parameters, inputs)
        centres = prototypes(features, labels, way)
        return {**parameters, "head.weight": 2.0 * centres, "head.bias": -(centres * centres).sum(dim=1)}, statistics

    def refit_head(
        self,
        parameters: Parameters,
        statistics: Statistics,
        inputs: Float[Tensor, "support 3 size size"],
        labels: Int64[Tensor, "support"],
    ) -> tuple[Parameters, Statistics]:
        """Compute the prototypes from the changed backbone's features; see `GradientLearner.refit_head`."""
        way = len(parameters["head.bias"])
        return self.inner_loop(parameters, inputs, labels, way=way, steps=0, second_order=False)
