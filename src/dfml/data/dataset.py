"""`ImageDataset`: labelled images in memory, or mapped from the cache, sorted by class."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dfml.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images of one size, sorted by class and file name.

    Treat the tensors as read-only: `images` may be mapped from a file that is larger than the memory.

    Args:
        images: RGB images, uint8.
        labels: Class of each image, as an index into `classes`; in ascending order.
        classes: Class names, all different; every class has at least one image.
        name: Name in results and messages, such as `cifar-fs/test`.

    Raises:
        DataError: If labels and classes do not fit together.
    """

    images: UInt8[Tensor, "images 3 height width"]
    labels: Int64[Tensor, " images"]
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}: expected one label per image, found {len(self.labels)} and {len(self.images)}"
            )
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"{self.name}: expected class names that differ, found {', '.join(self.classes)}")
        present = torch.unique_consecutive(self.labels)
        if present.tolist() != list(range(len(self.classes))):
            raise DataError(
                f"{self.name}: expected labels 0 to {len(self.classes) - 1} in ascending order, each at least once"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @cached_property
    def _starts(self) -> list[int]:
        """Index of the first image of each class, followed by the number of images."""
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        return [0, *counts.cumsum(0).tolist()]

    def of_class(self, label: int) -> Int64[Tensor, " n"]:
        """Indices of the images of one class, in ascending order.

        Args:
            label: Index into `classes`.

        Raises:
            IndexError: If there is no such class.
        """
        if not 0 <= label < len(self.classes):
            raise IndexError(f"expected a class from 0 to {len(self.classes) - 1}, found {label}")
        return torch.arange(self._starts[label], self._starts[label + 1])

    def select(self, classes: Sequence[str]) -> ImageDataset:
        """A data set of some of the classes, with copies of their images.

        Args:
            classes: Names of the classes; the class at position i gets label i.

        Raises:
            DataError: If a class is unknown or named twice, or `classes` is empty.
        """
        if not classes:
            raise DataError(f"{self.name}: expected at least one class to select, found none")
        numbers = {name: number for number, name in enumerate(self.classes)}
        for name in classes:
            if name not in numbers:
                raise DataError(f"{self.name}: there is no class {name!r}{_hint(name, self.classes)}")
        indices = [self.of_class(numbers[name]) for name in classes]
        counts = torch.tensor([len(chosen) for chosen in indices])
        return ImageDataset(
            images=self.images[torch.cat(indices)],
            labels=torch.repeat_interleave(torch.arange(len(classes)), counts),
            classes=tuple(classes),
            name=self.name,
        )


def _hint(name: str, classes: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, classes, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
