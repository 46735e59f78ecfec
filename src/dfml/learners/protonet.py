"""ProtoNet (Snell et al. 2017): the nearest class mean in feature space."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters, Statistics


class ProtoNet(GradientLearner):
    """Class means of the support features; a query's score is its negative squared distance to them (papers 1.4).

    -||f - c||^2 = 2 c.f - ||c||^2 - ||f||^2, and the last term is the same for all classes: adaptation is a linear head
    computed in closed form. It is differentiated through always; `second_order` and the steps do not apply.
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
        means = prototypes(features, labels, way)
        return {**parameters, "head.weight": 2.0 * means, "head.bias": -(means * means).sum(dim=1)}, statistics

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


def prototypes(
    features: Float[Tensor, "support features"], labels: Int64[Tensor, "support"], way: int
) -> Float[Tensor, "way features"]:
    """Mean feature of every class; classes may have unequal numbers."""
    total = features.new_zeros(way, features.shape[1]).index_add(0, labels, features)
    count = features.new_zeros(way).index_add(0, labels, features.new_ones(len(labels)))
    return total / count[:, None]
