"""`Episode`: one few-shot task, and how its images are sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import UsageError


@dataclass(frozen=True)
class Episode:
    """One few-shot task: a support set to adapt to, and a query set on which the adapted classifier is evaluated.

    Attributes:
        support_images: Floats, nominally in [0, 1] (synthetic images may leave the range).
        support_labels: Class indices within the episode, counted from 0.
        query_images: Floats, like the support images; no image is in both sets.
        query_labels: Class indices within the episode.
    """

    support_images: Float[Tensor, "support 3 height width"]
    support_labels: Int64[Tensor, "support"]
    query_images: Float[Tensor, "query 3 height width"]
    query_labels: Int64[Tensor, "query"]


def sample_episode_indices(
    sizes: Int64[Tensor, "classes"], way: int, shot: int, query: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "way"], Int64[Tensor, "way shot"], Int64[Tensor, "way query"]]:
    """Sample an episode uniformly: `way` classes, and of each class `shot` support and `query` other images.

    Args:
        sizes: Number of images of every class.
        way: Number of classes of the episode.
        shot: Number of support images per class.
        query: Number of query images per class.
        generator: Random generator, on the CPU.

    Returns:
        Indices of the classes, `(way,)`; then, per class, the indices within the class of its support images, `(way,
        shot)`, and of its query images, `(way, query)`. No image is in both.

    Raises:
        UsageError: If there are fewer than `way` classes, or a class has fewer than `shot + query` images.
    """
    if way > len(sizes):
        raise UsageError(f"expected at least {way} classes (--way), found {len(sizes)}; choose a smaller --way")
    if int(sizes.min()) < shot + query:
        raise UsageError(
            f"expected at least {shot} shot + {query} query = {shot + query} images per class, found a class of "
            f"{int(sizes.min())}; choose a smaller --shot or fewer query images, or leave the class out"
        )
    classes = torch.randperm(len(sizes), generator=generator)[:way]
    chosen = torch.stack([torch.randperm(int(sizes[index]), generator=generator)[: shot + query] for index in classes])
    return classes, chosen[:, :shot], chosen[:, shot:]


def episode_labels(way: int, per_class: int, device: torch.device) -> Int64[Tensor, "images"]:
    """Create the labels of `per_class` images of each of `way` classes, class by class: 0, 0, ..., 1, 1, ..."""
    return torch.arange(way, device=device).repeat_interleave(per_class)
