"""Images as people have them: paths, images of Pillow, arrays and tensors, one or several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dfml.errors import DataError
from dfml.image_files import UndecodableError, decode, read_file, square
from dfml.images import resize_and_crop, to_float

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

    OneImage = str | os.PathLike[str] | Image | npt.NDArray[np.generic] | Tensor
    Images = OneImage | Sequence[OneImage]
else:  # Pillow is imported where one of its images may be given
    OneImage = Images = Any

_TOLERANCE = 1e-3  # of what rounding, or an antialiased resizing, leaves outside of [0, 1]
_LAYOUT = {"array": "(height, width, 3)", "tensor": "(3, height, width)"}


class ImageBatch:
    """Images of any form, which are read when they are needed.

    One image is a path, an image of Pillow, an array (height, width, 3) or, grey, (height, width), or a tensor
    (3, height, width). Several are a sequence of these, of any sizes, an array (images, height, width, 3), or a tensor
    (images, 3, height, width). Arrays and tensors hold bytes, or floats in [0, 1].

    Args:
        images: One image or several.

    Attributes:
        single: Whether it was one image.

    Raises:
        DataError: If it is none of these, or no image is given. What is wrong with a single image of a sequence is
            found when it is read.
    """

    def __init__(self, images: Images) -> None:
        given: Any = images
        many = isinstance(given, Sequence) and not isinstance(given, str)
        self.single = not many and not (isinstance(given, np.ndarray | Tensor) and given.ndim == 4)
        self._items: Any = [given] if self.single else given
        if many and not len(given):
            raise DataError("expected at least one image, found an empty sequence")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._items)

    def batches(self, count: int, size: int) -> Iterator[Float[Tensor, "_images 3 size size"]]:
        """Read the images, `count` at a time; an empty tensor is one batch.

        Args:
            count: Largest number of images per batch.
            size: Side length in pixels; the short side is resized to it, then the centre is cropped.

        Raises:
            DataError: If an image cannot be read, or has another layout or range.
        """
        for start in range(0, max(len(self), 1), count):
            yield self._read(self._items[start : start + count], size)

    def read(self, size: int) -> Float[Tensor, "images 3 size size"]:
        """Read all images; see `batches`."""
        return next(self.batches(max(len(self), 1), size))

    def _read(self, items: Any, size: int) -> Tensor:
        if isinstance(items, np.ndarray | Tensor):
            return resize_and_crop(_floats(items), size)
        return torch.stack([_read_one(item, size) for item in items])


def _read_one(image: Any, size: int) -> Float[Tensor, "3 size size"]:
    if isinstance(image, np.ndarray | Tensor):
        return resize_and_crop(_floats(image[None]), size)[0]
    if isinstance(image, str | os.PathLike):
        pixels = read_file(image, lambda data: decode(data, size))
    else:
        from PIL.Image import Image

        if not isinstance(image, Image):
            raise DataError(
                f"expected an image as a path, an image of Pillow, an array or a tensor, found {type(image).__name__}"
            )
        try:
            pixels = square(image, size)
        except UndecodableError as error:
            raise DataError(f"cannot use the image of Pillow: {error}") from error
    return to_float(torch.from_numpy(pixels.copy()))


def _floats(images: Any) -> Float[Tensor, "images 3 height width"]:
    """Arrays and tensors of several images of one size, as floats, channels first."""
    kind = "tensor" if isinstance(images, Tensor) else "array"
    found = tuple(images.shape[1:])
    if kind == "array":
        images = torch.from_numpy(np.ascontiguousarray(images))
        if images.ndim == 3:  # grey
            images = images[..., None]
        if images.ndim == 4 and images.shape[-1] == 1:
            images = images.expand(-1, -1, -1, 3)
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[1:]:
        raise DataError(f"expected an image of shape {_LAYOUT[kind]} as {kind}, found {found}")
    if images.dtype == torch.uint8:
        return to_float(images)
    if not images.is_floating_point():
        raise DataError(f"expected images as bytes (uint8) or floats in [0, 1], found {images.dtype}")
    if len(images):
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= -_TOLERANCE and high <= 1.0 + _TOLERANCE):
            raise DataError(
                f"expected floats in [0, 1], found values from {low:.3g} to {high:.3g}; divide bytes by 255, and leave "
                "normalisation to the classifier"
            )
    floats: Tensor = images if kind == "tensor" else images.float()
    return floats
