"""Conversion of images between floats in [0, 1], bytes and Pillow; resizing to the input size of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from dfml.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


Interpolation = Literal["nearest", "bilinear", "bicubic"]
"""How images are resized. `bilinear` and `bicubic` are antialiased; `nearest` takes single pixels, as Pillow does."""


def resize_and_crop(
    images: Float[Tensor, "images 3 height width"], size: int, interpolation: Interpolation = "bilinear"
) -> Float[Tensor, "images 3 size size"]:
    """Resize the short side to `size`, then crop the centre.

    Args:
        images: Floats in [0, 1]. Images that are `size` x `size` already are returned as they are.
        size: Height and width of the result, in pixels.
        interpolation: How they are resized; default bilinear.

    Raises:
        DataError: If the images are integers (bytes) instead of floats.
    """
    if not images.is_floating_point():
        raise DataError(f"expected images as floats in [0, 1], found {images.dtype}; divide bytes by 255")
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    resized = (max(size, round(height * scale)), max(size, round(width * scale)))
    if interpolation == "nearest":
        images = functional.interpolate(images, size=resized, mode="nearest-exact")
    else:
        images = functional.interpolate(images, size=resized, mode=interpolation, antialias=True, align_corners=False)
    top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
    return images[..., top : top + size, left : left + size].clamp(0.0, 1.0)


def to_bytes(images: Float[Tensor, "*images 3 height width"]) -> UInt8[Tensor, "*images 3 height width"]:
    """Convert floats in [0, 1] to bytes: clip, then round to the nearest of 256 levels. No gradient passes."""
    return images.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)


def to_float(images: UInt8[Tensor, "*images 3 height width"]) -> Float[Tensor, "*images 3 height width"]:
    """Convert bytes to floats in [0, 1]."""
    return images.float().div_(255.0)


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """Convert one image of floats in [0, 1], which are clipped, to an RGB image of Pillow."""
    from PIL import Image

    return Image.fromarray(to_bytes(image).cpu().permute(1, 2, 0).contiguous().numpy())
