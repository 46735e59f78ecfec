"""Images of any size -> images of the size that a network works at."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.errors import DataError


def fit_images(images: Float[Tensor, "images 3 height width"], size: int) -> Float[Tensor, "images 3 size size"]:
    """Resize the short side to `size` (bilinear, antialiased), then crop the centre; nothing at the right size.

    Raises:
        DataError: If the images are bytes, which no network here is made for.
    """
    if not images.is_floating_point():
        raise DataError(f"expected images as floats in [0, 1], found {images.dtype}; divide bytes by 255")
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    resized = (max(size, round(height * scale)), max(size, round(width * scale)))
    images = functional.interpolate(images, size=resized, mode="bilinear", antialias=True, align_corners=False)
    top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
    return images[..., top : top + size, left : left + size].clamp(0.0, 1.0)
