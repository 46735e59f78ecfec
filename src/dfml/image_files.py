"""Decoding of image files to square RGB arrays of uint8.

Data sets, support sets and single images to predict all go through `decode`, so an image has the same pixels wherever
it comes from.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dfml.errors import DataError, UsageError
from dfml.images import Interpolation

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Only these decoders are used: others run external programs (EPS), or are less tested with malicious files.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Images per task of a thread: enough to outweigh its overhead, few enough to show progress.
_CHUNK = 64
_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

Progress = Callable[[int, int], None]
"""Called with (images done, images in total)."""


class UndecodableError(DataError):
    """Bytes that are not a usable image. The message is the reason, without the file's name."""


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def check_size(size: int) -> None:
    """Raise `UsageError` unless `size`, a side length in pixels, is at least 1."""
    if size < 1:
        raise UsageError(f"expected an image size of at least 1 pixel, found {size}")


def decode(data: bytes, size: int, interpolation: Interpolation = "bilinear") -> npt.NDArray[np.uint8]:
    """Decode one image to RGB of shape (3, size, size).

    The short side is resized to `size` (unchanged if it has that length), then the centre is cropped, as by
    torchvision's `Resize` and `CenterCrop`. EXIF orientation is applied, transparent pixels are composed with white,
    16-bit grey is scaled to 8 bits, and the first frame of an animation is used.

    Args:
        data: Content of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        size: Side length in pixels.
        interpolation: How it is resized; default antialiased bilinear.

    Raises:
        UndecodableError: If the bytes are damaged, of another format, or hold too many pixels to be safe.
    """
    return _decode(data, lambda image: square(image, size, interpolation))


def decode_whole(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode one image to RGB of shape (height, width, 3), at its own size; otherwise as `decode`.

    Raises:
        UndecodableError: See `decode`.
    """
    return _decode(data, lambda image: np.asarray(_rgb(image)))


def _decode(data: bytes, convert: Callable[[Image.Image], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return convert(image)
    except UndecodableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning if filters raise it
        raise UndecodableError(f"too many pixels to be decoded safely ({error})") from error
    except UnidentifiedImageError as error:
        raise UndecodableError("not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise UndecodableError(str(error) or type(error).__name__) from error


def read_file(path: str | os.PathLike[str], decoder: Callable[[bytes], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Read and decode one image file.

    Args:
        path: Path of the file.
        decoder: Function of its bytes, such as `decode_whole`.

    Raises:
        DataError: If there is no such file, or it cannot be decoded.
    """
    try:
        return decoder(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"cannot decode {path}: {error}") from error


def square(image: Image.Image, size: int, interpolation: Interpolation = "bilinear") -> npt.NDArray[np.uint8]:
    """Convert an image of Pillow to RGB of shape (3, size, size), as `decode` does; the image itself is not changed.

    Raises:
        UndecodableError: If its pixels cannot be decoded, or are too many to be safe.
    """
    return np.asarray(_centre_square(_rgb(image), size, _RESAMPLING[interpolation])).transpose(2, 0, 1)


def _require_safe_size(image: Image.Image) -> None:
    """Refuse an image of more than `Image.MAX_IMAGE_PIXELS` pixels before its pixels are decoded.

    Up to twice that limit Pillow only warns. To turn its warning into an error would change the warning filters of the
    whole process, also those of other threads.

    Raises:
        UndecodableError: If the image has more pixels.
    """
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        raise UndecodableError(
            f"too many pixels to be decoded safely (expected at most {limit:,}, found {width} x {height})"
        )


def _rgb(image: Image.Image) -> Image.Image:
    _require_safe_size(image)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UndecodableError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow clips at 255 instead of scaling. Some of its readers return 16-bit images in the 32-bit mode "I".
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    new_width, new_height = (size * side // short for side in (width, height))
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    if short == size:
        return image.crop((left, top, left + size, top + size))
    # Resampling only this box equals resizing the whole image and cropping, and costs less.
    x_scale, y_scale = width / new_width, height / new_height
    box = (left * x_scale, top * y_scale, (left + size) * x_scale, (top + size) * y_scale)
    return image.resize((size, size), resampling, box=box)


def decode_all(
    read: Callable[[str], bytes],
    files: Sequence[str],
    size: int,
    progress: Progress | None = None,
    interpolation: Interpolation = "bilinear",
) -> UInt8[Tensor, "files 3 size size"]:
    """Decode many files by one thread per CPU; decoders release Python's global lock.

    Args:
        read: Returns the bytes of a file; called from several threads.
        files: Names of the files, in the order of the result.
        size: Side length in pixels.
        progress: Called with (images done, images in total) after every 64 images; None for no display.
        interpolation: How images are resized.

    Raises:
        DataError: If files cannot be decoded; the message names the first and gives their number.
    """
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    pixels = images.numpy()

    def decode_chunk(start: int) -> dict[int, str]:
        failures = {}
        for index in range(start, min(start + _CHUNK, len(files))):
            try:
                pixels[index] = decode(read(files[index]), size, interpolation)
            except DataError as error:
                failures[index] = str(error)
        return failures

    failures: dict[int, str] = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        chunks = [pool.submit(decode_chunk, start) for start in range(0, len(files), _CHUNK)]
        for done, chunk in enumerate(as_completed(chunks), start=1):
            failures |= chunk.result()
            if progress is not None:
                progress(min(done * _CHUNK, len(files)), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        first = min(failures)
        raise DataError(
            f"cannot decode {files[first]}: {failures[first]}; {len(failures)} of {len(files)} files cannot be "
            "decoded, repair or remove them"
        )
    return images
