"""Indices of images that several members share, for engines that optimise one set of pixels for several members."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def shared_image_indices(classes: Sequence[Int64[Tensor, " _images"]]) -> list[Int64[Tensor, " _images"]]:
    """Number the images of several members in one common set; members with the same class share its images.

    Args:
        classes: For every member, the class (index in the zoo) of each of its images.

    Returns:
        For every member, the index of each of its images, counted from 0: the n-th image of a class has the same index
        for all members (`Target.images`).
    """
    numbers: dict[tuple[int, int], int] = {}
    found = []
    for of_member in classes:
        counts: dict[int, int] = defaultdict(int)
        indices = []
        for label in of_member.tolist():
            indices.append(numbers.setdefault((label, counts[label]), len(numbers)))
            counts[label] += 1
        found.append(torch.tensor(indices, device=of_member.device))
    return found


def first_occurrences(indices: Sequence[Int64[Tensor, " _images"] | None]) -> list[Bool[Tensor, " _images"] | None]:
    """For every member, a mask of its images that no earlier member has; None if its images are not shared.

    Args:
        indices: For every member the indices of its images in one common set (`Target.images`); None: not shared.
    """
    seen: set[int] = set()
    found: list[Tensor | None] = []
    for indices_of_member in indices:
        if indices_of_member is None:
            found.append(None)
            continue
        values = indices_of_member.tolist()
        first = torch.tensor([value not in seen for value in values], dtype=torch.bool)
        found.append(first.to(indices_of_member.device))
        seen.update(values)
    return found
