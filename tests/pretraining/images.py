"""Labelled images that a network learns in seconds: every class is a distinct pattern with noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dfml.data.dataset import ImageDataset
from dfml.seeds import generator


def patterns(
    classes: Sequence[str] = ("ant", "bee", "cat", "dog", "elk"),
    *,
    per_class: int = 20,
    size: int = 16,
    name: str = "patterns/train",
    seed: int = 0,
) -> ImageDataset:
    """A data set of noisy patterns."""
    draws = generator(seed, "patterns", name)
    pattern = torch.randint(0, 200, (len(classes), 1, 3, size, size), generator=draws)
    noise = torch.randint(0, 56, (len(classes), per_class, 3, size, size), generator=draws)
    return ImageDataset(
        images=(pattern + noise).flatten(0, 1).to(torch.uint8),
        labels=torch.arange(len(classes)).repeat_interleave(per_class),
        classes=tuple(classes),
        name=name,
    )
