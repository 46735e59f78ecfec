"""Class splits of few-shot benchmarks: which class folders are for training, validation and test.

They divide an image folder that has no split level of its own. Further ones are added without a change here, by
`register_split` or by an installed package that declares one as an entry point of the group `dfml.splits`. This module
imports nothing heavy: the command line reads its names whenever it starts.

Sources: CIFAR-FS, Bertinetto et al., ICLR 2019. miniImageNet, Ravi and Larochelle, ICLR 2017. CUB-200-2011, Chen et
al., "A Closer Look at Few-shot Classification", ICLR 2019. VGG-Flower-102, the split that PURER and FREE are evaluated
on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from dfml.errors import DataError, UsageError
from dfml.registries import Registry

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class ClassSplit(Protocol):
    """A rule that divides the classes of a data set into training, validation and test classes."""

    @property
    def name(self) -> str:
        """What `--splits` and `open_images(official=...)` call it."""

    def classes(self, split: Split, folders: Sequence[str]) -> tuple[str, ...]:
        """Choose the class folders of a split.

        Args:
            split: Which of the three parts.
            folders: Names of the class folders that are present, in any order.

        Returns:
            Names out of `folders`, in the order in which they shall be numbered.

        Raises:
            DataError: If folders are missing.
        """


@dataclass(frozen=True)
class ListedSplit:
    """A class split that lists the classes of each part.

    Folders of other classes are ignored: the whole of ImageNet serves as miniImageNet. Names that are numbers match
    with or without leading zeros.

    Args:
        name: See `ClassSplit`.
        train: Names of the training classes.
        val: Names of the validation classes.
        test: Names of the test classes.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def classes(self, split: Split, folders: Sequence[str]) -> tuple[str, ...]:
        """See `ClassSplit.classes`; the result is sorted.

        Raises:
            DataError: If a listed class has no folder.
        """
        present = {_without_zeros(folder): folder for folder in folders}
        listed: tuple[str, ...] = getattr(self, split)
        missing = [name for name in listed if name not in present]
        if missing:
            raise DataError(
                f"expected {len(listed)} class folders for {self.name} {split}, {len(missing)} are missing: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            )
        return tuple(sorted(present[name] for name in listed))


@dataclass(frozen=True)
class PositionSplit:
    """A class split by the position, from 0, of a folder among all sorted folders.

    Args:
        name: See `ClassSplit`.
        count: Number of class folders that must be present.
        positions: Positions of each part.
    """

    name: str
    count: int
    positions: Mapping[Split, slice]

    def classes(self, split: Split, folders: Sequence[str]) -> tuple[str, ...]:
        """See `ClassSplit.classes`; the result is sorted.

        Raises:
            DataError: If there are more or fewer folders than `count`.
        """
        if len(folders) != self.count:
            raise DataError(
                f"the split of {self.name} counts positions among its {self.count} class folders, found "
                f"{len(folders)}; give the folder of all classes"
            )
        return tuple(sorted(folders)[self.positions[split]])


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _without_zeros(folder: str) -> str:
    return str(int(folder)) if re.fullmatch("[0-9]+", folder) else folder


CIFAR_FS = ListedSplit(
    "cifar-fs",
    train=_words(
        """apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach
        couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster
        mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum rabbit raccoon
        ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip
        turtle willow_tree wolf"""
    ),
    val=_words(
        """beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
        television tractor"""
    ),
    test=_words(
        """baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
        telephone wardrobe whale woman worm"""
    ),
)

MINI_IMAGENET = ListedSplit(
    "miniimagenet",
    train=_words(
        """n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831
        n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052
        n02687172 n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140
        n03347037 n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194
        n04067472 n04243546 n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
        n04596742 n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560 n13133613"""
    ),
    val=_words(
        """n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042
        n03535780 n03584254 n03770439 n03773504 n03980874 n09256479"""
    ),
    test=_words(
        """n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525
        n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480"""
    ),
)

_FLOWER_VAL = (10, 16, 17, 23, 26, 47, 53, 56, 57, 62, 82, 83, 86, 97, 102)
_FLOWER_TEST = (5, 9, 15, 19, 35, 40, 41, 42, 45, 46, 65, 85, 89, 94, 96, 98)
VGG_FLOWER = ListedSplit(
    "vgg-flower",
    train=tuple(str(i) for i in range(1, 103) if i not in _FLOWER_VAL + _FLOWER_TEST),
    val=tuple(map(str, _FLOWER_VAL)),
    test=tuple(map(str, _FLOWER_TEST)),
)

CUB = PositionSplit("cub", 200, {"train": slice(0, None, 2), "val": slice(1, None, 4), "test": slice(3, None, 4)})

_SPLITS: Registry[ClassSplit] = Registry(
    "class split",
    "dfml.splits",
    {split.name: split for split in (CIFAR_FS, CUB, MINI_IMAGENET, VGG_FLOWER)},
    accepts=lambda name, split: isinstance(split, ClassSplit) and split.name == name,
    expected="an object with this `name` and a method `classes`",
)


def register_split(split: ClassSplit) -> None:
    """Make a class split available under its name, in this process.

    Raises:
        UsageError: If the name is one of dfml's own.
    """
    _SPLITS.register(split.name, split)


def split_names() -> tuple[str, ...]:
    """Names of all class splits: dfml's own and registered ones, then those that installed packages declare.

    No code of those packages is imported.
    """
    return _SPLITS.names()


def find_split(name: str) -> ClassSplit:
    """The class split of a name; one that a package declares is imported now.

    Raises:
        UsageError: If there is none, or what a package declares cannot be imported or is no class split.
    """
    return _SPLITS.find(name)


def official_split(name: str, split: str, folders: Sequence[str]) -> tuple[str, ...]:
    """Class folders that belong to one part of a class split.

    Args:
        name: One of `split_names()`.
        split: "train", "val" or "test".
        folders: Names of the class folders that are present.

    Returns:
        Names out of `folders`, at least one.

    Raises:
        UsageError: If there is no such class split or part.
        DataError: If a class of the part has no folder (for CUB: if there are not 200 folders).
    """
    chosen = find_split(name)
    if split not in SPLITS:
        raise UsageError(f"expected a split out of {', '.join(SPLITS)}, found {split!r}")
    classes = chosen.classes(split, folders)
    if absent := [each for each in classes if each not in folders]:
        raise DataError(f"the class split {name!r} chose class folders that are not there: {', '.join(absent[:5])}")
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"expected the class split {name!r} to choose different {split} classes, found {classes!r}")
    return classes
