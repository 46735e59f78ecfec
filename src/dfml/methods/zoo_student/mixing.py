"""CutMix: new images for distillation, each made of two images. They have no label; the members predict them."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def cut_and_mix(
    first: Shaped[Tensor, "images 3 size size"],
    second: Shaped[Tensor, "images 3 size size"],
    generator: torch.Generator,
) -> Shaped[Tensor, "images 3 size size"]:
    """Replace a random box of each first image by the same box of the second image (CutMix, Yun et al., ICCV 2019).

    Args:
        first: Images of any type.
        second: As many images of the same size and type.
        generator: Random generator on the CPU. The area of a square box, as a fraction of the image, and its centre are
            uniform in [0, 1]; the part of a box outside of the image is cut off.

    Returns:
        New images of the same type.
    """
    count, size = len(first), first.shape[-1]
    area, *centre = torch.rand(3, count, 1, generator=generator).to(first.device).unbind()
    half = 0.5 * size * area.sqrt()
    positions = torch.arange(size, device=first.device) + 0.5
    rows, columns = ((positions - size * coordinate).abs() < half for coordinate in centre)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], second, first)
