"""Result of `dfml.invert`: recovered images, in memory and as files."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.images import to_pil
from dfml.inversion.fidelity import Fidelity

KEPT_IMAGES, KEPT_CLASSES, SHARED_CLASSES = 12, 20, 100
"""What is kept in memory if images are written to a folder: the first 12 images of each class, of the first 20 classes
of a member, or of the first 100 classes of members that were inverted together."""

_PIXELS_AT_ONCE = 2**22  # pixels of a round, such as 83 images of 224 x 224; bounds the memory of the optimisation


_DEVICE_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class InvertedMember:
    """What was recovered from one member.

    Attributes:
        name: Name of the member in the zoo.
        labels: One name per output.
        classes: For every output the name of its class in the zoo (`Zoo.classes.names`).
        per_class: Number of images recovered for each output.
        images: For every output its images in [0, 1]; with an output folder only the first 12 images of the first 20
            outputs, so that a large zoo does not fill the memory. Members that were inverted together have the same
            images of a class; with a folder, only the first 100 classes of all have images here.
        fidelity: How many of all images this and other members recognise.
    """

    name: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    per_class: int
    images: tuple[Float[Tensor, "_images 3 _size _size"], ...]
    fidelity: Fidelity

    @property
    def count(self) -> int:
        """Number of images recovered for all outputs together."""
        return self.per_class * len(self.labels)


class ClassImages:
    """Collects recovered images class by class over several rounds; writes them to a folder, if there is one.

    Args:
        names: Names of the classes.
        per_class: Number of images of each class.
        folder: Output folder, in which each class gets a folder; None: all images are kept in memory.
        most_classes: Number of classes whose first 12 images are kept in memory if there is a folder.
    """

    def __init__(
        self, names: Sequence[str], per_class: int, folder: Path | None, most_classes: int = KEPT_CLASSES
    ) -> None:
        self._folders = [folder / name for name in folder_names(names)] if folder else None
        self._most, classes = (KEPT_IMAGES, most_classes) if folder else (per_class, len(names))
        self._kept: list[list[Tensor]] = [[] for _ in names[:classes]]

    def add(self, classes: range, numbers: range, images: Float[Tensor, "images 3 height width"]) -> None:
        """Add the images of a round.

        Args:
            classes: Indices of the classes, in `names`.
            numbers: Numbers of the images within each class, counted from 0 over all rounds.
            images: Images in [0, 1], class by class.

        Raises:
            FileExistsError: If the folder of a class exists before its image 0 is written.
        """
        for index, of_class in zip(classes, torch.split(images.cpu(), len(numbers)), strict=True):
            if self._folders:
                _write(self._folders[index], numbers, of_class)
            if index < len(self._kept):
                self._kept[index].append(of_class[: max(0, self._most - numbers.start)].clone())

    def read(self) -> tuple[Float[Tensor, "_images 3 _size _size"], ...]:
        """The images in memory, class by class: of all classes, or of the first `most_classes` if there is a folder."""
        return tuple(torch.cat(each) for each in self._kept)


def plan_rounds(
    outputs: int, per_class: int, size: int, classes_per_round: int | None = None
) -> list[tuple[range, range]]:
    """Divide the images of one member into rounds, whose images are recovered together.

    A round has as many classes as possible, because the running statistics that its images are to match are those of
    all classes. If one image of each class is too much for `_PIXELS_AT_ONCE`, the classes are divided; then the images.

    Args:
        outputs: Number of classes of the member.
        per_class: Number of images of each class.
        size: Height and width of the images in pixels.
        classes_per_round: Largest number of classes of a round; None: as many as fit.

    Returns:
        One (indices of classes, numbers of the images of each class) per round.
    """
    if classes_per_round is None:
        classes_per_round = max(1, _PIXELS_AT_ONCE // size**2)
    groups = math.ceil(outputs / classes_per_round)
    ends = [round(outputs * number / groups) for number in range(groups + 1)]
    rounds = []
    for start, stop in itertools.pairwise(ends):
        at_once = max(1, _PIXELS_AT_ONCE // ((stop - start) * size**2))
        parts = math.ceil(per_class / at_once)
        bounds = [round(per_class * number / parts) for number in range(parts + 1)]
        rounds += [(range(start, stop), range(*numbers)) for numbers in itertools.pairwise(bounds)]
    return rounds


def _write(folder: Path, numbers: range, images: Float[Tensor, "images 3 height width"]) -> None:
    """Write images as `0000.png` and so on.

    Args:
        folder: The folder of a class.
        numbers: Number of every image. If the first is 0, the folder must not exist.
        images: Images in [0, 1].
    """
    folder.mkdir(parents=True, exist_ok=numbers.start > 0)
    for number, image in zip(numbers, images, strict=True):
        to_pil(image).save(folder / f"{number:04d}.png")


def folder_names(labels: Sequence[str]) -> list[str]:
    """Folder names for labels: valid on every file system whatever the labels contain, distinct also without case."""
    names: list[str] = []
    taken: set[str] = set()
    for index, label in enumerate(labels):
        safe = re.sub(r"[^\w.,+()-]+", "_", label).strip("._")[:80]
        # 255 bytes are the longest name of most file systems.
        name = plain = safe.encode()[:200].decode(errors="ignore").rstrip(".") or "class"
        if _DEVICE_OF_WINDOWS.fullmatch(plain):
            name = plain = f"{plain.replace('.', '_', 1)}_"
        while name.lower() in taken:
            name = f"{plain}-{index}"
            index += 1
        taken.add(name.lower())
        names.append(name)
    return names
