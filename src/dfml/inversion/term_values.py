"""The values of the terms of the inversion loss, as pure functions of images, statistics and predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.divergences import kl_divergence
from dfml.zoo.statistics import LayerStatistics

_JS_TEMPERATURE = 3.0  # of both distributions in DeepInversion's Jensen-Shannon term


def batch_norm_distance(statistics: Sequence[LayerStatistics], first_layer: float = 1.0) -> Float[Tensor, ""]:
    """Distance of a batch's batch-norm statistics from the running ones (PURER, inversion loss).

    Sum over layers of ||variance - running variance||_2 + ||mean - running mean||_2, over channels, not squared.

    Args:
        statistics: One entry per batch-norm layer, in order of use; at least one.
        first_layer: Factor by which the distance of the first layer is multiplied; default 1.
    """
    distances = [
        torch.linalg.vector_norm(layer.variance - layer.running_variance)
        + torch.linalg.vector_norm(layer.mean - layer.running_mean)
        for layer in statistics
    ]
    return torch.stack([distances[0] * first_layer, *distances[1:]]).sum()


def standardised_batch_norm_distance(
    statistics: Sequence[LayerStatistics], first_layer: float = 1.0
) -> Float[Tensor, ""]:
    """Distance of a batch's batch-norm statistics from the running ones, in units of the layers' own normalisation.

    Mean over layers and channels of ((mean - running mean) / deviation)^2 + ((batch deviation - deviation) /
    deviation)^2, where deviation is the number by which the layer divides the channel: sqrt(running variance + eps).
    A batch whose statistics are as far off as a standard normal variable has a distance of about 2 in every network.

    Args:
        statistics: One entry per batch-norm layer, in order of use; at least one.
        first_layer: Factor of the first layer's distance.
    """
    distances = []
    for layer in statistics:
        deviation = layer.running_deviation
        shift = (layer.mean - layer.running_mean) / deviation
        ratio = (layer.variance.clamp_min(0.0) + layer.eps).sqrt() / deviation
        distances.append((shift.square() + (ratio - 1.0).square()).mean())
    return torch.stack([distances[0] * first_layer, *distances[1:]]).mean()


def mean_total_variation(pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, ""]:
    """Mean absolute difference of horizontally and of vertically adjacent pixels, the two directions averaged.

    It does not depend on the number or the size of the images beyond their content.
    """
    rows = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean()
    columns = (pixels[..., :, 1:] - pixels[..., :, :-1]).abs().mean()
    return 0.5 * (rows + columns)


def total_variation(pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, ""]:
    """Total variation of a batch: four L2 norms, one per direction, of the differences of adjacent pixels, summed.

    The directions are horizontal, vertical and both diagonals. Each norm is taken over the whole batch and not squared,
    so the value grows with the square root of the batch size.
    """
    differences = (
        pixels[..., :, 1:] - pixels[..., :, :-1],
        pixels[..., 1:, :] - pixels[..., :-1, :],
        pixels[..., 1:, 1:] - pixels[..., :-1, :-1],
        pixels[..., 1:, :-1] - pixels[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()


def disagreement(
    member: Float[Tensor, "images outputs"],
    student: Float[Tensor, "images outputs"],
    divergence: Literal["kl", "js"] = "kl",
) -> Float[Tensor, ""]:
    """Divergence between the predictions of a member and of the student, mean over images; at least 0.

    Args:
        member: Logits of the member.
        student: Logits of the student for the same outputs.
        divergence: `kl`: KL(member || student) in nats. Images on which they disagree, because they predict different
            classes, count 0, so that images keep their class and become those that the student is unsure of (CMI,
            FREE). `js`: Jensen-Shannon divergence of the softmax at temperature 3, divided by ln 2, so that it is
            between 0 and 1 (DeepInversion).
    """
    if divergence == "kl":
        log_p, log_q = functional.log_softmax(member, dim=1), functional.log_softmax(student, dim=1)
        agreed = member.argmax(dim=1) == student.argmax(dim=1)
        return (kl_divergence(log_p, log_q) * agreed).mean()
    log_p, log_q = (functional.log_softmax(logits / _JS_TEMPERATURE, dim=1) for logits in (member, student))
    log_middle = torch.logaddexp(log_p, log_q) - math.log(2.0)
    both = (kl_divergence(log_p, log_middle) + kl_divergence(log_q, log_middle)).mean()
    return both / (2.0 * math.log(2.0))
