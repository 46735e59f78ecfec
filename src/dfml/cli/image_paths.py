"""Image files from what a user names: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from dfml.errors import UsageError


def find_images(given: Sequence[str]) -> list[Path]:
    """List image files.

    Args:
        given: Paths of files, which are taken as they are; folders, of which all images are taken, those of folders in
            them too; and patterns such as `photos/*.jpg` or `photos/**/*.png`, for shells that do not expand them.

    Returns:
        The files in the order of `given`, those of a folder or a pattern sorted by name; none twice.

    Raises:
        UsageError: If a folder holds no image, or no file fits a pattern.
    """
    from dfml.image_files import is_image

    found: dict[Path, None] = {}
    for each in given:
        path = Path(each)
        if path.is_dir():
            some = sorted(file for file in path.rglob("*") if is_image(file.name) and not file.name.startswith("."))
        elif glob.has_magic(each) and not path.exists():
            some = sorted(file for name in glob.glob(each, recursive=True) if (file := Path(name)).is_file())
        else:
            some = [path]
        if not some:
            raise UsageError(f"expected images at {each}, found none; check the folder or the pattern")
        found |= dict.fromkeys(some)
    return list(found)
