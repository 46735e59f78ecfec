"""The plan of a zoo: the classes, the data set and the architecture of every member."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch

from dfml.data.dataset import ImageDataset
from dfml.errors import UsageError
from dfml.seeds import rng


@dataclass(frozen=True)
class MemberPlan:
    """What one member is to be: architecture, data set and classes.

    Attributes:
        number: Its position in the zoo, from 0; part of the seed of its random draws.
        dataset: Index of the data set that it is trained on.
        architecture: Name of its architecture.
        classes: Names of its classes in the data set, in the order of its outputs.
        labels: Names of its outputs: those of the classes, preceded by the data set's name where several data sets
            have a class of that name (PURER's multi-domain zoos count such classes as different).
    """

    number: int
    dataset: int
    architecture: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the member's folder."""
        return f"member-{self.number:03d}"


@dataclass(frozen=True)
class _Slot:
    """A member's turn, the index of its data set, and its classes."""

    turn: int
    dataset: int
    classes: tuple[str, ...]


def plan_members(
    datasets: Sequence[ImageDataset],
    *,
    members: int | None,
    way: int | Sequence[int],
    architectures: Sequence[str],
    disjoint: bool,
    seed: int,
) -> list[MemberPlan]:
    """Plan a zoo. The plan of member i does not depend on the number of members.

    Members are planned in turns of one member per data set. In turn t, data set d gets the architecture and the way
    that `combination(t + d, A, W)` returns for A architectures and W ways. Both change from turn to turn, and each data
    set has every pair of them once in A * W turns. The classes of a member are

    - if disjoint, the next `way` classes of its data set in sorted order. The last member of a data set may have fewer;
      a single remaining class is left out, because a classifier needs two. A data set without further classes is
      skipped.
    - otherwise, a random subset of its data set's classes, so that members overlap.

    The same data at several image sizes take turns like different data sets, but have their classes in common: equal
    classes have equal labels at all sizes, and if disjoint, no class is given to two members of different sizes.

    Args:
        datasets: Data sets. Those of one name must be the same data at different image sizes: equal classes and labels.
        members: Number of members; None for as many as there are disjoint sets of classes (only with `disjoint`).
        way: Number of classes per member, or several numbers.
        architectures: Names of at least one architecture.
        disjoint: Whether no two members share a class.
        seed: Seed of the random subsets.

    Raises:
        UsageError: If an argument is empty or out of range, data sets of one name do not fit together, or the classes
            do not suffice.
    """
    ways = as_ways(way)
    _check(datasets, members, ways, architectures, disjoint)
    slots = (
        _disjoint(datasets, ways, len(architectures)) if disjoint else _random(datasets, ways, len(architectures), seed)
    )
    chosen = list(islice(slots, members))
    if members is not None and len(chosen) < members:
        raise UsageError(
            f"expected at most {len(chosen)} members, the number of disjoint sets of "
            f"{' or '.join(map(str, dict.fromkeys(ways)))} classes; "
            f"found {members}; ask for fewer members, or let them overlap"
        )
    distinct = {dataset.name: dataset.classes for dataset in datasets}
    uses = Counter(name for classes in distinct.values() for name in classes)
    return [
        MemberPlan(
            number=number,
            dataset=slot.dataset,
            architecture=architectures[combination(slot.turn + slot.dataset, len(architectures), len(ways))[0]],
            classes=slot.classes,
            labels=tuple(f"{datasets[slot.dataset].name}/{c}" if uses[c] > 1 else c for c in slot.classes),
        )
        for number, slot in enumerate(chosen)
    ]


def as_ways(way: int | Sequence[int]) -> tuple[int, ...]:
    """Return one or several numbers of classes per member as a tuple."""
    return (way,) if isinstance(way, int) else tuple(way)


def combination(step: int, architectures: int, ways: int) -> tuple[int, int]:
    """Indices of the architecture and the way of a step.

    Both advance by one per step. Steps whose distance is the least common multiple of the two numbers would repeat each
    other, so the way advances by one more after every such multiple, until all pairs have occurred: any A * W
    successive steps have every pair once.

    Args:
        step: Number of the step, from 0.
        architectures: Number of architectures, A.
        ways: Number of ways, W.
    """
    extra = step // math.lcm(architectures, ways) % math.gcd(architectures, ways)
    return step % architectures, (step + extra) % ways


def _check(
    datasets: Sequence[ImageDataset],
    members: int | None,
    ways: Sequence[int],
    architectures: Sequence[str],
    disjoint: bool,
) -> None:
    if not datasets or not architectures or not ways:
        raise UsageError("a zoo needs at least one data set, one architecture and one way (number of classes)")
    if members is None and not disjoint:
        raise UsageError("expected the number of members: random classes can be drawn for any number of them")
    if members is not None and members < 1:
        raise UsageError(f"expected at least 1 member, found {members}")
    if min(ways) < 2:
        raise UsageError(f"expected a way of at least 2 classes, found {min(ways)}")
    for dataset in datasets:
        if max(ways) > len(dataset.classes):
            raise UsageError(
                f"expected a way of at most {len(dataset.classes)}, the classes of {dataset.name}, found {max(ways)}; "
                "lower the way or add classes"
            )
    for index, dataset in enumerate(datasets):
        for earlier in datasets[:index]:
            if dataset.name == earlier.name:
                _require_same_data(earlier, dataset)


def _require_same_data(first: ImageDataset, second: ImageDataset) -> None:
    """Check that two data sets of one name are the same data at two image sizes."""
    sizes = [dataset.images.shape[-1] for dataset in (first, second)]
    if sizes[0] == sizes[1]:
        raise UsageError(
            f"expected data sets of different names, or one at different sizes; found {first.name!r} twice at "
            f"{sizes[0]} pixels; name it once, or rename a folder"
        )
    if first.classes != second.classes or not torch.equal(first.labels, second.labels):
        raise UsageError(
            f"expected data sets of different names, found {first.name!r} twice with different classes or images; "
            "rename a folder"
        )


def _disjoint(datasets: Sequence[ImageDataset], ways: Sequence[int], architectures: int) -> Iterator[_Slot]:
    """Yield slots until no data set has two classes left."""
    remaining = {dataset.name: sorted(dataset.classes) for dataset in datasets}  # the same data at two sizes: one list
    for turn in count():
        if all(len(names) < 2 for names in remaining.values()):
            return
        for index, dataset in enumerate(datasets):
            way = ways[combination(turn + index, architectures, len(ways))[1]]
            names = remaining[dataset.name]
            if len(names) > 1:
                yield _Slot(turn, index, tuple(names[:way]))
                remaining[dataset.name] = names[way:]


def _random(datasets: Sequence[ImageDataset], ways: Sequence[int], architectures: int, seed: int) -> Iterator[_Slot]:
    """Yield slots of random classes, without end."""
    for number in count():
        turn, index = divmod(number, len(datasets))
        way = ways[combination(turn + index, architectures, len(ways))[1]]
        names = sorted(datasets[index].classes)
        positions = rng(seed, "member", number, "classes").choice(len(names), way, replace=False)
        yield _Slot(turn, index, tuple(names[position] for position in positions))
