"""`open_images`: an image folder, or a zip of one, as a data set that is decoded once per image size and cached."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from dfml.data.cache import CacheEntry, cache_folder
from dfml.data.dataset import ImageDataset
from dfml.data.sources import Source, Tree, arrange, open_source
from dfml.data.splits import SPLITS, official_split, split_names
from dfml.errors import DataError, UsageError
from dfml.image_files import Progress, check_size, decode_all


def open_images(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    official: str | None = None,
    size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Open labelled images as square RGB images of one size.

    The images are at class/image or split/class/image in a folder or a zip, possibly with one folder around
    everything. JPEG, PNG, WebP, BMP, GIF, TIFF and PPM files of any size are read; other files, hidden files and
    `__MACOSX` are ignored. Class folders without images are left out, with a warning. Only one split is decoded.

    The first call decodes the images and writes them to the cache; if that fails (a full disk), it warns and returns
    the images in memory. Later calls map the cached file, until the zip or any file in the folder changes.

    Args:
        path: An image folder, or a zip of one.
        split: "train", "val" or "test"; required for split/class/image and with `official`, else None.
        official: Name of a class split that divides a class/image folder, as in
            `open_images("cifar100/", split="test", official="cifar-fs")`; one of `dfml.data.splits.split_names()`.
        size: Side length in pixels; the short side is resized to it, then the centre is cropped.
        cache: Folder of decoded images; None for the user's cache folder (`dfml.data.cache.cache_folder`).
        progress: Called with (images decoded, images in total) while images are decoded.

    Raises:
        UsageError: If `size`, `split` or `official` has no possible value.
        DataError: If there are no images, their folders have another layout, or images cannot be decoded.
    """
    check_size(size)
    source = open_source(path)
    folder = cache_folder() if cache is None else Path(cache)
    fingerprint = source.fingerprint()
    if official is not None:  # the split may choose other classes although the source has not changed
        fingerprint += f" {list(_choose(arrange(source), source.path, split, official))}"
    entry = CacheEntry(folder, (os.fsencode(source.path).hex(), split, official, size), fingerprint)
    dataset = entry.load()
    return _decode(source, split, official, size, entry, progress) if dataset is None else dataset


def _decode(
    source: Source, split: str | None, official: str | None, size: int, entry: CacheEntry, progress: Progress | None
) -> ImageDataset:
    classes = _choose(arrange(source), source.path, split, official)
    if empty := [name for name, files in classes.items() if not files]:
        warnings.warn(f"{source.path}: left out class folders without images: {', '.join(empty)}", stacklevel=3)
    classes = {name: files for name, files in classes.items() if files}
    counts = torch.tensor([len(files) for files in classes.values()])
    name = source.path.stem if source.path.suffix == ".zip" else source.path.name
    dataset = ImageDataset(
        images=decode_all(source.read, [file for files in classes.values() for file in files], size, progress),
        labels=torch.repeat_interleave(torch.arange(len(classes)), counts),
        classes=tuple(classes),
        name=name if split is None else f"{name}/{split}",
    )
    try:
        entry.save(dataset)
    except DataError as error:
        warnings.warn(f"{error}; the images will be decoded again next time", stacklevel=3)
        return dataset
    return entry.load() or dataset


def _choose(tree: Tree, path: Path, split: str | None, official: str | None) -> dict[str, list[str]]:
    """The files of each class of a split; see `open_images` for the arguments."""
    has_splits = "" not in tree
    if official is not None:
        if split is None:
            raise UsageError(f"an official class split needs a split: one of {', '.join(SPLITS)}")
        if has_splits:
            raise DataError(f"{path} has splits of its own, {', '.join(tree)}; leave the official class split out")
        classes = tree[""]
        return {name: classes[name] for name in official_split(official, split, list(classes))}
    if split is None and has_splits:
        raise DataError(f"expected a split to be named: {path} has {', '.join(tree)}")
    if split is not None and not has_splits:
        raise DataError(
            f"expected split/class/image for split {split!r}, found {path} without split level; leave the split out, "
            f"or name the official class split to divide it by ({', '.join(split_names())})"
        )
    chosen = tree.get(split or "", {})
    if not any(chosen.values()):
        raise DataError(f"expected images in split {split!r} of {path}, which has {', '.join(tree)}")
    return chosen
