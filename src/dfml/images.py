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

    Size and place of the crop follow the rule of torchvision's `Resize` and `CenterCrop`, as in
    `dfml.image_files.decode`.

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
    # In an export height and width may be symbols, whose comparison would fix them.
    if isinstance(height, int) and isinstance(width, int) and height == width == size:
        return images
    if torch.compiler.is_exporting() and interpolation == "bilinear":
        return _resize_by_products(images, size)
    short = min(height, width)
    resized = (size * height // short, size * width // short)
    if interpolation == "nearest":
        images = functional.interpolate(images, size=resized, mode="nearest-exact")
    else:
        images = functional.interpolate(images, size=resized, mode=interpolation, antialias=True, align_corners=False)
    top, left = (round((length - size) / 2) for length in resized)
    return images[..., top : top + size, left : left + size].clamp(0.0, 1.0)


def _resize_by_products(images: Tensor, size: int) -> Tensor:
    """`resize_and_crop` as two matrix products, for `torch.export`: height and width of the images stay free.

    It uses elementary operations only, so that every runtime can run the result: `interpolate` becomes an antialiased
    ONNX Resize, which few implement.
    """
    height, width = images.shape[-2:]
    # In float64 all integers are exact, and so are the floors of their quotients.
    lengths = [torch.full((), length, dtype=torch.float64) for length in (height, width)]
    short = torch.minimum(*lengths)
    rows, columns = (
        _crop_weights(count, length, short, size) for count, length in zip((height, width), lengths, strict=True)
    )
    return (rows.to(images) @ images @ columns.to(images).T).clamp(0.0, 1.0)


def _crop_weights(count: int | torch.SymInt, length: Tensor, short: Tensor, size: int) -> Float[Tensor, "size length"]:
    """Weights of the `count` pixels along one side, of length `length`, in each pixel of the resized and cropped side.

    The weights of a pixel of the result fall linearly to 0, at a distance of one pixel of the coarser grid.
    """
    resized = torch.floor(length * size / short)
    rest = resized - size
    # Python's `round(rest / 2)`, which rounds 0.5 down and 1.5 up.
    start = torch.floor(rest / 2) + torch.floor((rest - 4 * torch.floor(rest / 4)) / 3)
    scale = length / resized
    centres = (torch.arange(size, dtype=torch.float64) + start + 0.5) * scale
    pixels = torch.arange(count, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels - centres[:, None]).abs() / scale.clamp(min=1.0)).clamp(min=0.0)
    return weights / weights.sum(dim=1, keepdim=True)


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
