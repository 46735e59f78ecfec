"""The official class splits of few-shot benchmarks, for image folders that come without a split level.

CIFAR-FS: Bertinetto et al. 2019. miniImageNet: Ravi and Larochelle 2017. CUB-200-2011 and VGG-Flower-102: the splits of
the few-shot literature that PURER and FREE are evaluated on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dfml.errors import DataError, UsageError

_Lists = dict[str, tuple[str, ...]]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CIFAR_FS: _Lists = {
    "train": _names(
        """apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach
        couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster
        mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum rabbit raccoon
        ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip
        turtle willow_tree wolf"""
    ),
    "val": _names(
        """beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
        television tractor"""
    ),
    "test": _names(
        """baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
        telephone wardrobe whale woman worm"""
    ),
}

MINI_IMAGENET: _Lists = {
    "train": _names(
        """n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831
        n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052
        n02687172 n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140
        n03347037 n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194
        n04067472 n04243546 n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
        n04596742 n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560 n13133613"""
    ),
    "val": _names(
        """n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042
        n03535780 n03584254 n03770439 n03773504 n03980874 n09256479"""
    ),
    "test": _names(
        """n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525
        n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480"""
    ),
}

_FLOWER_VAL = (10, 16, 17, 23, 26, 47, 53, 56, 57, 62, 82, 83, 86, 97, 102)
_FLOWER_TEST = (5, 9, 15, 19, 35, 40, 41, 42, 45, 46, 65, 85, 89, 94, 96, 98)
VGG_FLOWER: _Lists = {
    "train": tuple(str(i) for i in range(1, 103) if i not in _FLOWER_VAL + _FLOWER_TEST),
    "val": tuple(map(str, _FLOWER_VAL)),
    "test": tuple(map(str, _FLOWER_TEST)),
}

_LISTS = {"cifar-fs": CIFAR_FS, "miniimagenet": MINI_IMAGENET, "vgg-flower": VGG_FLOWER}
_CUB_CLASSES = 200
# CUB has no list: the split goes by the position (from 0) among all 200 sorted folder names.
_CUB_POSITIONS = {"train": slice(0, None, 2), "val": slice(1, None, 4), "test": slice(3, None, 4)}

BENCHMARKS = ("cifar-fs", "cub", "miniimagenet", "vgg-flower")


def official_split(benchmark: str, split: str, folders: Sequence[str]) -> tuple[str, ...]:
    """Which class folders belong to an official split.

    Folders of classes that are not in the benchmark are left out: all of ImageNet serves as miniImageNet. VGG-Flower's
    folders are its class numbers, 1 to 102, with or without leading zeros.

    Args:
        benchmark: One of `BENCHMARKS`.
        split: "train", "val" or "test".
        folders: The class folders that there are, without split level.

    Returns:
        The folders of that split, sorted.

    Raises:
        UsageError: There is no such benchmark or split.
        DataError: A class of the split has no folder (for CUB: there are not 200 folders).
    """
    if benchmark not in BENCHMARKS:
        raise UsageError(f"expected a benchmark out of {', '.join(BENCHMARKS)}, found {benchmark!r}")
    if split not in _CUB_POSITIONS:
        raise UsageError(f"expected a split out of {', '.join(_CUB_POSITIONS)}, found {split!r}")
    if benchmark == "cub":
        if len(folders) != _CUB_CLASSES:
            raise DataError(
                f"the split of cub counts positions among its {_CUB_CLASSES} class folders, found {len(folders)}; "
                "give the folder of all classes"
            )
        return tuple(sorted(folders)[_CUB_POSITIONS[split]])
    present = {_key(folder): folder for folder in folders}
    wanted = _LISTS[benchmark][split]
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            f"expected {len(wanted)} class folders for {benchmark} {split}, {len(missing)} are missing: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )
    return tuple(sorted(present[name] for name in wanted))


def _key(folder: str) -> str:
    return str(int(folder)) if re.fullmatch("[0-9]+", folder) else folder
