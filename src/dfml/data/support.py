"""Reading of support sets (`dfml adapt`) and of single images (`dfml predict`)."""

from __future__ import annotations

import os

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.data.sources import arrange, open_source
from dfml.errors import DataError
from dfml.image_files import check_size, decode, decode_all, read_file
from dfml.images import Interpolation, to_float


def read_support(
    folder: str | os.PathLike[str], size: int, interpolation: Interpolation = "bilinear"
) -> tuple[Float[Tensor, "n 3 size size"], Int64[Tensor, " n"], tuple[str, ...]]:
    """Read a support set: a folder class/image with any number of images per class.

    Nothing is cached: there are few images, and the user may change them at any time.

    Args:
        folder: An image folder, or a zip of one.
        size: Side length in pixels; the short side is resized to it, then the centre is cropped.
        interpolation: How images are resized; default antialiased bilinear.

    Returns:
        Images in [0, 1], sorted by class and file name; the label of each, an index into the class names; and the class
        names.

    Raises:
        UsageError: If `size` is less than 1.
        DataError: If the folder has another layout, fewer than two classes or a class without images, or an image
            cannot be decoded.
    """
    check_size(size)
    source = open_source(folder)
    tree = arrange(source)
    if "" not in tree:
        raise DataError(f"expected class/image in {folder}, found splits: {', '.join(tree)}; give the folder of one")
    classes = tree[""]
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(f"expected at least one image per class in {folder}, found none for {', '.join(empty)}")
    if len(classes) < 2:
        raise DataError(f"expected at least two class folders in {folder}, found only {', '.join(classes)}")
    images = decode_all(
        source.read, [file for files in classes.values() for file in files], size, interpolation=interpolation
    )
    counts = torch.tensor([len(files) for files in classes.values()])
    labels = torch.repeat_interleave(torch.arange(len(classes)), counts)
    return to_float(images), labels, tuple(classes)


def read_image(path: str | os.PathLike[str], size: int) -> Float[Tensor, "3 size size"]:
    """Read one image, in [0, 1].

    Args:
        path: Path of the image file.
        size: Side length in pixels; the short side is resized to it, then the centre is cropped.

    Raises:
        UsageError: If `size` is less than 1.
        DataError: If there is no such file, or it cannot be decoded.
    """
    check_size(size)
    return to_float(torch.from_numpy(read_file(path, lambda data: decode(data, size)).copy()))
