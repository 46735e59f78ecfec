"""How alike members are, and groups of members that are unlike each other (TGR, task grouping).

A member is described by the diagonal of the Fisher information of a probe network on the images recovered from it
(Achille et al., "Task2Vec", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

Fisher = dict[str, Tensor]
"""Diagonal of the Fisher information by the names of the probe's weights, averaged over the weights of each filter."""

Features = Callable[[Mapping[str, Tensor], Float[Tensor, "images 3 size size"]], Float[Tensor, "images width"]]
"""Features of normalised images as a function of a probe's weights; each depends on its image alone."""

_LEAST = 1e-12  # added to the information, so that weights without any divide by no zero


def fisher_information(
    features: Features,
    weights: Mapping[str, Tensor],
    inputs: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, " images"],
) -> Fisher:
    """Mean over images of the squared derivative of the log-probability of each image's label.

    The probe's head is that of the nearest class mean, computed once: logits are the inner products of a feature with
    the normalised means of the classes.

    Args:
        features: The probe.
        weights: The probe's weights.
        inputs: Images as the probe takes them.
        labels: For every image the output of the member that it was recovered as.
    """
    present, rows = torch.unique(labels, return_inverse=True)
    with torch.no_grad():
        found = functional.normalize(features(weights, inputs), dim=1)
        head = torch.stack([found[rows == row].mean(dim=0) for row in range(len(present))])

    def log_probability(point: Mapping[str, Tensor], image: Tensor, row: Tensor) -> Tensor:
        logits = functional.normalize(features(point, image[None]), dim=1) @ head.T
        return logits.log_softmax(dim=1)[0].gather(0, row[None])[0]

    total = {name: value.new_zeros(value.shape[:1]) for name, value in weights.items()}
    point = {name: value.detach() for name, value in weights.items()}
    for image, row in zip(inputs, rows, strict=True):
        gradients = torch.func.grad(log_probability)(point, image, row)
        for name, value in total.items():
            value += gradients[name].square().reshape(*value.shape, -1).mean(dim=-1) / len(inputs)
    return total


def similarities(members: Sequence[Fisher]) -> Float[Tensor, "members members"]:
    """Mean over weight tensors of the cosine between F_i / (F_i + F_j) and F_j / (F_i + F_j), in [0, 1]."""
    names = list(members[0])
    total = torch.zeros(len(members), len(members), dtype=torch.float64)
    for name in names:
        flat = torch.stack([each[name].flatten().double().cpu() for each in members]) + _LEAST
        for index, own in enumerate(flat):
            both = own + flat
            total[index] += functional.cosine_similarity(own / both, flat / both, dim=1)
    return total / len(names)


def group_unlike(similarity: Float[Tensor, "members members"], groups: int) -> list[list[int]]:
    """Divide members into groups by spectral clustering on their dissimilarity, so that unlike members are together.

    Labels come from the eigenvectors by a QR decomposition with pivoting (Damle, Minden and Ying, "Simple, Direct and
    Efficient Multi-way Spectral Clustering", 2019): no random start, so the result does not depend on a seed.

    Args:
        similarity: Symmetric, in [0, 1].
        groups: Largest number of groups; there may be fewer.

    Returns:
        Indices of the members of each group, ascending; no group is empty.
    """
    count = len(similarity)
    groups = min(groups, count)
    if groups == 1:
        return [list(range(count))]
    from scipy.linalg import qr  # slow to import

    affinity = (1.0 - similarity.double()).clamp_min(0.0)
    affinity.fill_diagonal_(0.0)
    scale = affinity.sum(dim=1).clamp_min(_LEAST).rsqrt()
    _, vectors = torch.linalg.eigh(scale[:, None] * affinity * scale)
    leading = vectors[:, -groups:]
    _, _, pivots = qr(leading.T.numpy(), pivoting=True, mode="economic")
    left, _, right = torch.linalg.svd(leading[torch.as_tensor(pivots[:groups])].T)
    assigned = (leading @ (left @ right)).abs().argmax(dim=1)
    found = [torch.nonzero(assigned == group).flatten().tolist() for group in range(groups)]
    return [members for members in found if members]
