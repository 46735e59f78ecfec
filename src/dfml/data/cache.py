"""The decoding cache: decoded images in the user's cache folder, mapped instead of read when they are opened again.

One safetensors file per (source, target): its header holds the class names and a fingerprint of the source. When the
source has changed, the same file is written anew, so that the cache does not grow with every change.
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

# Raise it when `decode` gives other pixels than before.
_VERSION = 1


def cache_folder() -> Path:
    """Where decoded images are kept: $DFML_CACHE, else $XDG_CACHE_HOME/dfml, else ~/.cache/dfml.

    Raises:
        DataError: The user has no home folder.
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
        folder: The cache folder; made when needed.
        target: Everything that the images depend on, except for the state of the source.
        fingerprint: The state of the source.
    """

    def __init__(self, folder: Path, target: tuple[str | int | None, ...], fingerprint: str) -> None:
        digest = hashlib.sha256(json.dumps([_VERSION, *target]).encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.safetensors"
        self._fingerprint = fingerprint

    def load(self) -> ImageDataset | None:
        """The data set, its images mapped from the file; None when it is not there, out of date or damaged."""
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
        """Writes the data set, whole or not at all; whoever has the old file open keeps reading that one.

        Raises:
            DataError: It cannot be written (no space, no permission). Nothing is left behind.
        """
        header = {"fingerprint": self._fingerprint, "classes": json.dumps(dataset.classes), "name": dataset.name}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path, fsync=True) as temporary:
                save_tensors({"images": dataset.images, "labels": dataset.labels}, temporary, header)
        except OSError as error:
            raise DataError(f"cannot write the image cache in {self.path.parent}: {error}") from error
