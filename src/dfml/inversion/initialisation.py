"""Initial images of an inversion: drawn at random, of the kind that is closest to a member's batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from dfml import seeds
from dfml.drawn_images import dark_strokes, dead_leaves, pen_strokes
from dfml.inversion.term_values import batch_norm_distance
from dfml.zoo.pretrained import PretrainedClassifier

InitialPixels = Callable[[int, int, torch.Generator], Float[Tensor, "count 3 size size"]]
"""(count, size, generator) -> synthetic images in normalised space."""

_COMPARED = 64  # images of each kind that a member's batch-norm statistics are compared with


@torch.no_grad()
def matched_initialisations(classifier: PretrainedClassifier, seed: int = 0) -> tuple[InitialPixels, ...]:
    """Choose the initial images that are closest to a classifier's batch-norm statistics.

    Strokes are never used alone: letters with similar statistics may still look different and are then recovered worse
    than from dead leaves; alternating both did well on all letters that were tried (docs/results).

    Args:
        classifier: The member.
        seed: Seed of the images that are compared.

    Returns:
        `dead_leaves`; after it `pen_strokes` or `dark_strokes`, whichever is closer, if it is closer than dead leaves.
    """
    if not classifier.num_batch_norms:
        return (dead_leaves,)
    preprocessing = classifier.preprocessing
    device = next(classifier.parameters()).device

    def distance(pixels: Tensor) -> float:
        images = preprocessing.denormalise(pixels.to(device)).clamp(0.0, 1.0)
        return batch_norm_distance(classifier.logits_and_statistics(images)[1]).item()

    leaves, strokes = compared_images(preprocessing.size, seed)
    light, dark = distance(strokes), distance(-strokes)
    if min(light, dark) < distance(leaves):
        return dead_leaves, pen_strokes if light <= dark else dark_strokes
    return (dead_leaves,)


@lru_cache(maxsize=1)
def compared_images(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Dead leaves and light strokes, kept for all members of one size: drawing large ones takes seconds."""
    leaves, strokes = (draw(_COMPARED, size, seeds.generator(seed, "familiar")) for draw in (dead_leaves, pen_strokes))
    return leaves, strokes
