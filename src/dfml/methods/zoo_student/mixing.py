"""Mixing images: two of them make a third, about which a teacher has something new to say."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def cut_and_mix(
    first: Shaped[Tensor, "images 3 size size"],
    second: Shaped[Tensor, "images 3 size size"],
    generator: torch.Generator,
) -> Shaped[Tensor, "images 3 size size"]:
    """A box of each of the second images in place of the same box of the first (CutMix, Yun et al. 2019).

    Args:
        first: Images of any type.
        second: As many, of the same type.
        generator: Of the boxes, on the CPU: their area is uniform in [0, 1], their centre anywhere.
    """
    count, size = len(first), first.shape[-1]
    area, *centre = torch.rand(3, count, 1, generator=generator).to(first.device).unbind()
    half = 0.5 * size * area.sqrt()
    places = torch.arange(size, device=first.device) + 0.5
    rows, columns = ((places - size * middle).abs() < half for middle in centre)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], second, first)
