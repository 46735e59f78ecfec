"""Opens an image folder, or a zip of one, as a data set: decoded once per target size, then mapped from the cache."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from dfml.data.cache import CacheEntry, cache_folder
from dfml.data.dataset import ImageDataset
from dfml.data.decode import Progress, check_size, decode_all
from dfml.data.sources import Source, Tree, arrange, open_source
from dfml.data.splits import SPLITS, official_split, split_names
from dfml.errors import DataError, UsageError


def open_images(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    official: str | None = None,
    size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Opens labelled images of any size and kind as square RGB images of one size.

    The images lie at class/image or split/class/image, in a folder or in a zip (possibly with one folder around
    everything). JPEG, PNG, WebP, BMP, GIF, TIFF and PPM are read; other files, hidden files and `__MACOSX` are not
    looked at. A class folder without images is left out, with a warning. Only the split that was asked for is decoded.

    The first opening decodes in memory and writes the result to the cache; when that fails (a full disk), it warns and
    returns what is in memory. Later openings map the cached file, until the zip, or any file in the folder, changes.

    Args:
        path: An image folder, or a zip of one.
        split: "train", "val" or "test"; needed where there is a split level, or with `official`.
        official: Divides a source without split level by the official class split of this benchmark, one of
            `BENCHMARKS`: `open_images("cifar100/", split="test", official="cifar-fs")`.
        size: Side length in pixels. The short side is resized to it, then the centre is cropped.
        cache: Where decoded images are kept; the user's cache folder when not given (see `cache_folder`).
        progress: Called with (images decoded, images in total) during a first opening.

    Raises:
        UsageError: `size`, `split` or `official` is not a possible value.
        DataError: There are no images there, they are not laid out like that, or some cannot be decoded.
    """
    check_size(size)
    source = open_source(path)
    folder = cache_folder() if cache is None else Path(cache)
    fingerprint = source.fingerprint()
    if official is not None:  # whose classes may change while the source does not
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
    """Class -> files, of the split that was asked for."""
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
