"""Scores of networks that the same weights fit: how well each goes with the weights' own batch-norm statistics.

The names and shapes of weights do not tell activations, strides, pooling or shortcuts without parameters
(`dfml.zoo.proposals`). The running statistics of the batch-norm layers do: they are those of the network that was
trained, so that a network with another function between two layers has other statistics at the later one, whatever
natural images it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dfml.inversion.initialisation import compared_images
from dfml.inversion.term_values import batch_norm_distance
from dfml.zoo.pretrained import PretrainedClassifier


@dataclass(frozen=True)
class ProposalScore:
    """How well one of several networks goes with its weights.

    Attributes:
        index: Its position among the networks that were given.
        distance: Distance between its running statistics and those of synthetic images, the smallest of several kinds
            of images; None if it has no batch-norm layers. Comparable between networks with the same weights only.
        accuracy: Accuracy on the labelled images that were given, a fraction; None without any.
    """

    index: int
    distance: float | None
    accuracy: float | None


def rank_networks(
    networks: Sequence[PretrainedClassifier],
    images: Float[Tensor, "images 3 height width"] | None = None,
    labels: Int[Tensor, " images"] | None = None,
    *,
    seed: int = 0,
) -> list[ProposalScore]:
    """Score networks that have the same weights, best first.

    Args:
        networks: The networks.
        images: Images in [0, 1] of their classes, if there are any.
        labels: Index of the output that is right for each image.
        seed: Seed of the synthetic images.

    Returns:
        Scores by descending accuracy, where there are labelled images; networks of equal accuracy by ascending distance
        of their statistics; others in the order in which they were given.
    """
    scores = [
        ProposalScore(index, statistics_distance(network, seed), _accuracy(network, images, labels))
        for index, network in enumerate(networks)
    ]
    return sorted(scores, key=lambda score: (-(score.accuracy or 0.0), score.distance or 0.0))


@torch.no_grad()
def statistics_distance(network: PretrainedClassifier, seed: int = 0) -> float | None:
    """Distance between a network's running statistics and those of synthetic images in all of its batch-norm layers.

    Args:
        network: The network.
        seed: Seed of the images.

    Returns:
        The smallest distance over dead leaves, light strokes and dark strokes (`dfml.inversion.initialisation`); None
        if the network has no batch-norm layers.
    """
    if not network.num_batch_norms:
        return None
    device = next(network.parameters()).device
    leaves, strokes = compared_images(network.size, seed)
    distances = []
    for pixels in (leaves, strokes, -strokes):
        images = network.preprocessing.denormalise(pixels.to(device)).clamp(0.0, 1.0)
        distances.append(batch_norm_distance(network.logits_and_statistics(images)[1]).item())
    return min(distances)


@torch.no_grad()
def _accuracy(network: PretrainedClassifier, images: Tensor | None, labels: Tensor | None) -> float | None:
    if images is None or labels is None or not len(images):
        return None
    return (network.predict_logits(images).argmax(dim=1) == labels).float().mean().item()
