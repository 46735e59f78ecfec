"""The data sets of a suite: their paths, the classes of their splits, and their images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dfml.benchmark.suite import DatasetSpec
from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import CHARACTERS, class_name, glyphs
from dfml.data.image_folder import open_images
from dfml.data.sources import arrange, open_source
from dfml.data.splits import official_split, split_names
from dfml.errors import DataError, UsageError
from dfml.training.progress import deferred_progress

GLYPHS = "glyphs"
"""Name of the data set of rendered letters (`dfml.data.glyphs`), which has no files."""

DATA_VARIABLE = "DFML_DATA"
"""Environment variable with the path of a folder that holds data sets as NAME.zip or NAME/."""


@dataclass(frozen=True)
class LocatedDataset:
    """A data set of a suite, with its path.

    Attributes:
        name: Its name in the suite.
        path: An image folder, or a zip of one; None for `glyphs`.
        official: Name of the official class split to use where the path has no folders train, val and test; None: none.
        train_images: Images per training class of `glyphs`.
        test_images: Images per test class of `glyphs`.
    """

    name: str
    path: Path | None
    official: str | None
    train_images: int
    test_images: int

    def class_sizes(self, split: str) -> dict[str, int]:
        """Number of images of every class of a split; no image is decoded.

        Raises:
            DataError: If there is no such split, the path cannot be read, or the folder has another layout.
            UsageError: If `glyphs` have no such split, or the official class split is unknown.
        """
        if self.path is None:
            if split not in CHARACTERS:
                raise UsageError(f"{self.name} has the splits {' and '.join(CHARACTERS)}, not {split!r}")
            return dict.fromkeys(sorted(map(class_name, CHARACTERS[split])), self._glyphs_per_class(split))
        tree = arrange(open_source(self.path))
        if "" in tree and self.official is None:
            raise DataError(
                f"{self.name}: expected the split {split!r} in {self.path}, found classes without a split level; "
                f"divide it into train, val and test folders, or set `splits` to one of {', '.join(split_names())}"
            )
        if "" in tree:
            names = official_split(str(self.official), split, list(tree[""]))
            return {name: len(tree[""][name]) for name in names}
        if not any(tree.get(split, {}).values()):
            raise DataError(f"{self.name}: expected the split {split!r} in {self.path}, which has {', '.join(tree)}")
        return {name: len(files) for name, files in tree[split].items() if files}

    def open(self, split: str, size: int) -> ImageDataset:
        """Open the images of a split as a data set named `NAME/SPLIT`; they are decoded once and cached.

        Args:
            split: "train", "val" or "test".
            size: Side length that images are resized and cropped to, in pixels.

        Raises:
            DfmlError: See `dfml.open_images`.
        """
        if self.path is None:
            return glyphs(split, per_class=self._glyphs_per_class(split), size=size)
        official = self.official if "" in arrange(open_source(self.path)) else None
        with deferred_progress(f"decoding {self.name}") as report:
            opened = open_images(
                self.path,
                split=split,
                official=official,
                size=size,
                progress=lambda done, total: report(done, total, {}),
            )
        return replace(opened, name=f"{self.name}/{split}")

    def _glyphs_per_class(self, split: str) -> int:
        return self.train_images if split == "train" else self.test_images


def locate(name: str, spec: DatasetSpec, given: Mapping[str, Path]) -> LocatedDataset:
    """Find a data set of a suite.

    Args:
        name: Its name in the suite.
        spec: Its entry in the suite.
        given: Name -> path, from the command line. Other names are searched for in the folder `DFML_DATA`
            (environment variable) as NAME.zip or NAME/.

    Raises:
        UsageError: If it is not found.
    """
    official = spec.splits or (name if name in split_names() else None)
    path: Path | None = None
    if name != GLYPHS:
        folder = os.environ.get(DATA_VARIABLE)
        candidates = [given[name]] if name in given else []
        if not candidates and folder:
            candidates = [Path(folder) / f"{name}.zip", Path(folder) / name]
        path = next((candidate for candidate in candidates if candidate.exists()), None)
        if path is None:
            looked = f"; there is nothing at {', '.join(map(str, candidates))}" if candidates else ""
            raise UsageError(
                f"the data set {name!r} is needed{looked}; give its image folder or zip with --data {name}=PATH, or "
                f"set {DATA_VARIABLE} to a folder that holds {name}.zip or {name}/"
            )
    return LocatedDataset(name, path, official, spec.train_images, spec.test_images)
