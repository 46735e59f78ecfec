"""Class prototypes: the mean feature of every class, of ProtoNet and of heads that are fitted to an embedding."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor


def prototypes(
    features: Float[Tensor, "support features"], labels: Int64[Tensor, "support"], way: int
) -> Float[Tensor, "way features"]:
    """Compute the mean feature of every class; classes may have different numbers of images, but at least one."""
    total = features.new_zeros(way, features.shape[1]).index_add(0, labels, features)
    count = features.new_zeros(way).index_add(0, labels, features.new_ones(len(labels)))
    return total / count[:, None]
