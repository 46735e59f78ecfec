"""Labelled images as the command line names them: an image folder, a zip of one, or `glyphs`."""

from __future__ import annotations

from pathlib import Path

from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.data.image_folder import open_images
from dfml.data.sources import arrange, open_source
from dfml.training.progress import deferred_progress

GLYPHS = "glyphs"
"""Name of the embedded letters."""


def require_data(name: str) -> None:
    """Check that there is data of a name, before the work that it is for.

    Raises:
        DataError: If `name` is neither `glyphs` nor the path of a folder or zip.
    """
    if name != GLYPHS:
        open_source(name)


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
