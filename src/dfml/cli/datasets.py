"""Labelled images as the command line names them: an image folder, a zip of one, or `glyphs`."""

from __future__ import annotations

from pathlib import Path

from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.data.image_folder import open_images
from dfml.data.sources import arrange, open_source
from dfml.training.progress import deferred_progress


def open_data(name: str, *, split: str | None, usual: str, official: str | None, size: int) -> ImageDataset:
    """An image folder, a zip of one, or `glyphs`.

    Args:
        name: What the user wrote.
        split: As the user asked; None: `usual`, or everything where the images are in no splits.
        usual: The split that the verb is about.
        official: A benchmark whose official class split divides the folder.
        size: Pixels a side.

    Raises:
        DfmlError: If the images cannot be opened like that.
    """
    if name == "glyphs":
        return glyphs(split or usual, size=size)
    if split is None and (official is not None or "" not in arrange(open_source(name))):
        split = usual
    with deferred_progress(f"decoding {Path(name).stem}") as report:
        return open_images(
            name, split=split, official=official, size=size, progress=lambda done, total: report(done, total, {})
        )
