"""Episodes of an evaluation: how they are sampled, and whether a data set has room for them.

Episodes are those of Snell et al. (NeurIPS 2017), with even or uneven support.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dfml import seeds
from dfml.data.dataset import ImageDataset
from dfml.errors import DataError, UsageError
from dfml.learners.episode import sample_episode_indices

Shot = int | tuple[int, int]
"""Number of support images per class. A pair (fewest, most) is uneven support: in every episode, each class has its own
number, sampled uniformly from the range, both ends included."""


def describe_task(way: int, shot: Shot) -> str:
    """Describe the episodes of an evaluation: `5-way 1-shot`, or `5-way 1-to-5-shot` for uneven support."""
    return f"{way}-way {shot}-shot" if isinstance(shot, int) else f"{way}-way {shot[0]}-to-{shot[1]}-shot"


def sample_evaluation_episode(
    dataset: ImageDataset, way: int, shot: Shot, query: int, seed: int, index: int
) -> tuple[Tensor, Tensor]:
    """Sample the images of one evaluation episode.

    Args:
        dataset: Labelled images.
        way: Number of classes.
        shot: Number of support images per class, or their range; see `Shot`.
        query: Number of query images per class.
        seed: Seed of the evaluation.
        index: Number of the episode, from 0.

    Returns:
        Indices into the data set of the support images and of the query images, both class by class.

    Raises:
        UsageError: If there are too few classes, or a class has too few images.
    """
    images_of_class = [dataset.of_class(label) for label in range(len(dataset.classes))]
    sizes = torch.tensor([len(images) for images in images_of_class])
    fewest, most = (shot, shot) if isinstance(shot, int) else shot
    classes, support, queries = sample_episode_indices(
        sizes, way, most, query, seeds.generator(seed, "evaluation", index)
    )
    counts = torch.full((way,), most)
    if fewest < most:
        counts = torch.randint(fewest, most + 1, (way,), generator=seeds.generator(seed, "uneven support", index))
    sampled = [images_of_class[label] for label in classes.tolist()]
    return (
        torch.cat([images[indices[:n]] for images, indices, n in zip(sampled, support, counts.tolist(), strict=True)]),
        torch.cat([images[indices] for images, indices in zip(sampled, queries, strict=True)]),
    )


def check_enough_images(name: str, images: Mapping[str, int], way: int, shot: Shot, query: int) -> None:
    """Check that episodes can be sampled from a data set.

    Args:
        name: Name of the data set.
        images: Class -> number of its images.
        way: Number of classes per episode.
        shot: Number of support images per class, or their range; see `Shot`.
        query: Number of query images per class.

    Raises:
        DataError: If the data set has fewer than `way` classes, or a class has too few images.
        UsageError: If the range of `shot` is empty or begins below 1.
    """
    fewest, most = (shot, shot) if isinstance(shot, int) else shot
    if not 1 <= fewest <= most:
        raise UsageError(f"expected at least 1 support image per class, and a range that ascends, found shot={shot}")
    if way > len(images):
        raise DataError(f"{name} has {len(images)} classes, but --way asks for {way}; choose a smaller --way")
    for label, available in images.items():
        if available < most + query:
            raise DataError(
                f"class {label} of {name} has {available} images, but shot + query need {most + query}; "
                "add images, leave the class out, or choose a smaller --shot or --query"
            )
