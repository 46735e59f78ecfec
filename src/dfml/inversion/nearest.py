"""How close recovered images come to training images: for the owner of a model who has these images.

Images are compared at a low resolution and up to brightness and contrast, as Torralba, Fergus and Freeman (80 Million
Tiny Images, TPAMI 2008) compare "tiny images", because recovered images are noisy and have exaggerated contrast. A
distance means little by itself: how small it is, is measured by real images that the model has not been trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from dfml import seeds
from dfml.errors import DataError

COMPARED_SIZE = 32
"""Height and width, in pixels, at which images are compared."""

NEAR = 0.01
"""A recovered image is near a training image if at most this fraction of the baseline's distances is as small."""

_BASELINE_IMAGES = 2000  # training images that are compared with all others; more give the same quantiles
_ROWS = 2048  # images of either side of one matrix product; bounds the memory


@dataclass(frozen=True)
class Nearest:
    """The nearest candidate of each image.

    Attributes:
        index: Index of the candidate.
        distance: 1 - correlation of the pixels with those of the candidate or of its mirror image: 0 for a copy, about
            1 for unrelated images, at most 2.
    """

    index: Int64[Tensor, " images"]
    distance: Float[Tensor, " images"]


@dataclass(frozen=True)
class Comparison:
    """Recovered images and the training images that are nearest to them.

    Attributes:
        nearest: For every recovered image the nearest training image.
        baseline: Distances of real images to their nearest training image: of held-out images, or of training images
            to the nearest other one; in ascending order.
        same_class: Fraction of the recovered images whose nearest training image has their class; None if no label of
            the member is the name of a class of the training images.
        same_class_by_chance: The same for training images chosen at random.
    """

    nearest: Nearest
    baseline: Float[Tensor, " others"]
    same_class: float | None
    same_class_by_chance: float | None

    @property
    def as_small(self) -> Float64[Tensor, " images"]:
        """For every recovered image the fraction of the baseline's distances that are at most as large as its own."""
        return torch.searchsorted(self.baseline, self.nearest.distance, right=True).double() / len(self.baseline)

    @property
    def is_near(self) -> Bool[Tensor, " images"]:
        """Whether each recovered image is nearer to a training image than 99% of the baseline (`NEAR`)."""
        return self.as_small <= NEAR

    def as_dict(self) -> dict[str, Any]:
        """Summary as plain values for a JSON file."""
        return {
            "images": len(self.nearest.index),
            "distance": self.nearest.distance.median().item(),
            "baseline_distance": self.baseline.median().item(),
            "near": int(self.is_near.sum()),
            "same_class": self.same_class,
            "same_class_by_chance": self.same_class_by_chance,
        }


def compare_with_training(
    recovered: UInt8[Tensor, "images 3 size size"],
    recovered_labels: Int64[Tensor, " images"],
    training: UInt8[Tensor, "candidates 3 size size"],
    training_labels: Int64[Tensor, " candidates"],
    held_out: UInt8[Tensor, "others 3 size size"] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Find the nearest training image of every recovered image, and how near real images come to them.

    Args:
        recovered: Recovered images; `COMPARED_SIZE` is a good size.
        recovered_labels: The class of each, as an index; -1 if the training images have no such class.
        training: Images that the model was trained on, at least two.
        training_labels: The class of each, as an index of the same classes.
        held_out: Images like those of training, which the model was not trained on. None: at most 2,000 random training
            images, each compared with all other training images. Duplicates among the training images then have
            distance 0 and hide copies, so remove them before.
        seed: Seed of the choice of these images.

    Raises:
        DataError: If there are fewer than two training images, or no held-out image.
    """
    if len(training) < 2 or (held_out is not None and not len(held_out)):
        raise DataError(
            f"expected at least two training images and one held-out image to compare with, found {len(training)} and "
            f"{'none' if held_out is None else len(held_out)}; give more images"
        )
    nearest = find_nearest(recovered, training)
    if held_out is None:
        order = torch.randperm(len(training), generator=seeds.generator(seed, "baseline"))[:_BASELINE_IMAGES]
        baseline = find_nearest(training[order], training, own=order).distance
    else:
        baseline = find_nearest(held_out, training).distance
    named = recovered_labels >= 0
    same: float | None = None
    by_chance: float | None = None
    if bool(named.any()):
        labels = recovered_labels[named]
        same = (training_labels[nearest.index[named]] == labels).double().mean().item()
        counts = torch.bincount(training_labels, minlength=int(labels.max()) + 1)
        by_chance = (counts[labels].double().mean() / len(training)).item()
    return Comparison(nearest, baseline.sort().values, same, by_chance)


@torch.no_grad()
def find_nearest(
    images: UInt8[Tensor, "images 3 size size"],
    candidates: UInt8[Tensor, "candidates 3 size size"],
    *,
    own: Int64[Tensor, " images"] | None = None,
) -> Nearest:
    """The nearest candidate of each image, by the correlation of their pixels.

    The mean of all pixels is subtracted from an image, which is then scaled to length 1. An image of one colour has
    correlation 0 with every other. Mirrored candidates count as well, because networks are often trained on both.

    Args:
        images: Images to compare.
        candidates: Images among which the nearest is sought.
        own: For every image the index of one candidate that is left out: the image itself.
    """
    best = torch.full((len(images),), -2.0)
    index = torch.zeros(len(images), dtype=torch.int64)
    for start in range(0, len(candidates), _ROWS):
        part = candidates[start : start + _ROWS]
        views = [_normalised(part), _normalised(part.flip(-1))]
        for row in range(0, len(images), _ROWS):
            rows = slice(row, row + _ROWS)
            queries = _normalised(images[rows])
            correlations = torch.maximum(queries @ views[0].T, queries @ views[1].T)
            if own is not None:
                left_out = own[rows] - start
                inside = (left_out >= 0) & (left_out < len(part))
                correlations[inside.nonzero().flatten(), left_out[inside]] = -2.0
            values, places = correlations.max(dim=1)
            better = values > best[rows]
            best[rows] = torch.where(better, values, best[rows])
            index[rows] = torch.where(better, places + start, index[rows])
    return Nearest(index, (1.0 - best).clamp_min(0.0))


def _normalised(images: UInt8[Tensor, "images 3 size size"]) -> Float[Tensor, "images values"]:
    values = images.flatten(1).float()
    values = values - values.mean(dim=1, keepdim=True)
    norms: Tensor = values.norm(dim=1, keepdim=True)
    return values / norms.clamp_min(1e-6)
