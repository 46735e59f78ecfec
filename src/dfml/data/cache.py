"""Cache of decoded images in the user's cache folder. Cached images are memory-mapped, not read.

One safetensors file per source, split, official class split and image size; its header holds the name of the data set,
the class names and a fingerprint of the source. If the source has changed, its file is replaced. Files of sources that
no longer exist and of older cache versions are not removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dfml.data.dataset import ImageDataset
from dfml.errors import DataError
from dfml.files import atomic_file, save_tensors

# Increase it when `dfml.image_files` gives other pixels than before: files of older versions are no longer found then.
# They are not removed.
_VERSION = 1


def cache_folder() -> Path:
    """Folder of decoded images: $DFML_CACHE, else $XDG_CACHE_HOME/dfml, else ~/.cache/dfml.

    Raises:
        DataError: If none of these is set and the user has no home folder.
    """
    if own := os.environ.get("DFML_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "dfml"
    try:
        return Path.home() / ".cache" / "dfml"
    except RuntimeError as error:
        raise DataError("expected a home folder to cache decoded images in, found none; set DFML_CACHE") from error


class CacheEntry:
    """One data set in the cache.

    Args:
        folder: The cache folder; created by `save` if it is missing.
        key: What is cached: path of the source (its bytes in hexadecimal digits), split or None, official class split
            or None, side length of the images in pixels. Every key has a file of its own.
        fingerprint: State of the source: a string that changes with the source's files and with the classes of an
            official split. An entry with another fingerprint is out of date.
    """

    def __init__(self, folder: Path, key: tuple[str, str | None, str | None, int], fingerprint: str) -> None:
        digest = hashlib.sha256(json.dumps([_VERSION, *key]).encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.safetensors"
        self._fingerprint = fingerprint

    def load(self) -> ImageDataset | None:
        """Load the data set, with images mapped from the file; None if it is missing, out of date or damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata()
                if header["fingerprint"] != self._fingerprint:
                    return None
                images, labels = file.get_tensor("images"), file.get_tensor("labels")
                return ImageDataset(images, labels, tuple(json.loads(header["classes"])), header["name"])
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, DataError):
            return None

    def save(self, dataset: ImageDataset) -> None:
        """Write the data set atomically; processes that have mapped the old file keep their images.

        Raises:
            DataError: If it cannot be written (no space, no permission). Nothing is left behind.
        """
        header = {"fingerprint": self._fingerprint, "classes": json.dumps(dataset.classes), "name": dataset.name}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path, fsync=True) as temporary:
                save_tensors({"images": dataset.images, "labels": dataset.labels}, temporary, header)
        except OSError as error:
            raise DataError(f"cannot write the image cache in {self.path.parent}: {error}") from error
