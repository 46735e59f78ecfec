"""`Episode`: one few-shot task, a support set to adapt to and a query set to be judged on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import UsageError


@dataclass(frozen=True)
class Episode:
    """Images are float, NCHW, nominally in [0, 1]; labels count from 0 within the episode."""

    support_images: Float[Tensor, "support 3 height width"]
    support_labels: Int64[Tensor, "support"]
    query_images: Float[Tensor, "query 3 height width"]
    query_labels: Int64[Tensor, "query"]


def sample_episode_indices(
    sizes: Int64[Tensor, "classes"], way: int, shot: int, query: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "way"], Int64[Tensor, "way shot"], Int64[Tensor, "way query"]]:
    """Draw an episode: `way` classes, and within each `shot` support and `query` other query images.

    Args:
        sizes: Images available of every class.
        way: Classes in the episode.
        shot: Support images a class.
        query: Query images a class.
        generator: Of the draw.

    Returns:
        The classes, and per class the indices of its support and of its query images; no image is in both.

    Raises:
        UsageError: If there are fewer than `way` classes, or a class has fewer than `shot + query` images.
    """
    if way > len(sizes):
        raise UsageError(f"way {way} asks for more classes than there are ({len(sizes)}); choose a smaller --way")
    if int(sizes.min()) < shot + query:
        raise UsageError(
            f"a class has {int(sizes.min())} images, but {shot} shot + {query} query = {shot + query} are needed; "
            "choose fewer, or leave that class out"
        )
    classes = torch.randperm(len(sizes), generator=generator)[:way]
    chosen = torch.stack([torch.randperm(int(sizes[index]), generator=generator)[: shot + query] for index in classes])
    return classes, chosen[:, :shot], chosen[:, shot:]


def episode_labels(way: int, per_class: int, device: torch.device) -> Int64[Tensor, "images"]:
    """Labels of `per_class` images of each of `way` classes, class by class."""
    return torch.arange(way, device=device).repeat_interleave(per_class)
