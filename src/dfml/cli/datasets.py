"""Labelled images as the command line names them: an image folder, a zip of one, or `glyphs`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.data.image_folder import open_images
from dfml.data.sources import arrange, open_source
from dfml.errors import UsageError
from dfml.learners.saving import CONFIG
from dfml.training.progress import deferred_progress
from dfml.training.run_folder import CONFIG as RUN_CONFIG
from dfml.training.run_folder import SNAPSHOTS

GLYPHS = "glyphs"
"""Name of the embedded letters."""


def require_data(name: str) -> None:
    """Check that there is data of a name, before the work that it is for.

    Raises:
        DataError: If `name` is neither `glyphs` nor the path of a folder or zip.
    """
    if name != GLYPHS:
        open_source(name)


def split_sources(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the arguments of `dfml evaluate` into learners and the data sets behind them.

    The last argument is data, and so are those before it that are `glyphs`, a zip, or a folder that holds neither a
    learner nor a run.

    Args:
        sources: LEARNER... DATA...; at least one.

    Returns:
        The learners, which may be none, and at least one data set.
    """
    first = len(sources) - 1
    while first > 0 and _is_data(sources[first - 1]):
        first -= 1
    return list(sources[:first]), list(sources[first:])


def _is_data(name: str) -> bool:
    path = Path(name)
    learner_files = (CONFIG, RUN_CONFIG, SNAPSHOTS)
    return (
        name == GLYPHS
        or path.is_file()
        or (path.is_dir() and not any((path / file).exists() for file in learner_files))
    )


def read_sizes(names: Sequence[str], size: int) -> list[tuple[str, int]]:
    """Read the side length that each of several data sets may carry after its last `@`: `cifar-fs.zip@48`.

    A whole name that exists as a path is a path, so a path may contain `@`; `a@b.zip@48` gives that path a size.

    Args:
        names: Paths or `glyphs`, each with or without `@` and a side length in pixels.
        size: Side length of those without.

    Returns:
        Path (or `glyphs`) and side length of each.

    Raises:
        UsageError: If what follows the last `@` is no side length.
    """
    return [_read_size(name, size) for name in names]


def _read_size(name: str, size: int) -> tuple[str, int]:
    data, separator, own = name.rpartition("@")
    if not separator or os.path.exists(name):
        return name, size
    if not data or not own.isdecimal() or int(own) < 1:
        raise UsageError(
            f"expected DATA@SIZE with a side length in pixels, such as {data or GLYPHS}@32, found {name!r}, which is "
            "no path either; correct the size or the path"
        )
    return data, int(own)


def open_data(name: str, *, split: str | None, usual: str, official: str | None, size: int) -> ImageDataset:
    """Open labelled images, with progress on standard error if that takes long.

    Args:
        name: Path of an image folder or of a zip of one, or `glyphs`.
        split: Value of `--split`; None chooses `usual`, or all images of a folder that has no splits.
        usual: Default split of the subcommand.
        official: Value of `--splits`: name of the class split that divides a folder without splits; None for none.
        size: Side length of the images in pixels.

    Raises:
        DfmlError: If there are no such images, or `split` and `official` do not suit them.
    """
    if name == GLYPHS:
        return glyphs(split or usual, size=size)
    if split is None and (official is not None or "" not in arrange(open_source(name))):
        split = usual
    with deferred_progress(f"decoding {Path(name).stem}") as report:
        return open_images(
            name, split=split, official=official, size=size, progress=lambda done, total: report(done, total, {})
        )
