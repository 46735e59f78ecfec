"""Which member learns which classes of which data set with which architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from dfml.data.dataset import ImageDataset
from dfml.errors import UsageError
from dfml.seeds import rng


@dataclass(frozen=True)
class MemberPlan:
    """One member to be.

    Attributes:
        number: Its place in the zoo; its random draws are named by it.
        dataset: Index of the data set that it is trained on.
        architecture: Of its network.
        classes: Names in the data set, in the order of its outputs.
        labels: What the member calls them. The same, except that a name which several data sets use is told apart by
            the data set's: papers' multi-domain zoos count such classes as different ones.
    """

    number: int
    dataset: int
    architecture: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the member's folder."""
        return f"member-{self.number:03d}"


def plan_members(
    datasets: Sequence[ImageDataset],
    *,
    members: int | None,
    way: int,
    architectures: Sequence[str],
    disjoint: bool,
    seed: int,
) -> list[MemberPlan]:
    """Plan a zoo. Member i never depends on how many follow it.

    Members take turns among the data sets, and within each data set among the architectures, starting one further for
    every data set, so that every pair comes up. Classes are

    - disjoint: a data set's classes in sorted order, `way` at a time. The last member of a data set may have fewer; a
      single class that remains is left out, as it is nothing to classify. A data set that is used up loses its turn.
    - otherwise: a random subset of the data set's classes for every member, so members overlap.

    Args:
        datasets: Of different names.
        members: How many; None: as many as there are (disjoint only).
        way: Classes a member.
        architectures: At least one.
        disjoint: Whether no two members share a class.
        seed: Of the random subsets.

    Raises:
        UsageError: If the plan cannot be made.
    """
    _check(datasets, members, way, architectures, disjoint)
    draws = _disjoint(datasets, way) if disjoint else _random(datasets, way, seed)
    chosen = list(islice(draws, members))
    if members is not None and len(chosen) < members:
        raise UsageError(
            f"expected at most {len(chosen)} members: that many disjoint sets of {way} classes are there; "
            f"found {members}; ask for fewer members, or let them overlap"
        )
    uses = Counter(name for dataset in datasets for name in dataset.classes)
    return [
        MemberPlan(
            number=number,
            dataset=index,
            architecture=architectures[(turn + index) % len(architectures)],
            classes=classes,
            labels=tuple(f"{datasets[index].name}/{name}" if uses[name] > 1 else name for name in classes),
        )
        for number, (turn, index, classes) in enumerate(chosen)
    ]


def _check(
    datasets: Sequence[ImageDataset], members: int | None, way: int, architectures: Sequence[str], disjoint: bool
) -> None:
    if not datasets or not architectures:
        raise UsageError("a zoo needs at least one data set and at least one architecture")
    if members is None and not disjoint:
        raise UsageError("expected the number of members: random classes can be drawn for any number of them")
    if members is not None and members < 1:
        raise UsageError(f"expected at least 1 member, found {members}")
    if way < 2:
        raise UsageError(f"expected a way of at least 2 classes, found {way}")
    for dataset in datasets:
        if way > len(dataset.classes):
            raise UsageError(
                f"expected a way of at most {len(dataset.classes)}, the classes of {dataset.name}, found {way}; "
                "lower the way or add classes"
            )
    twice = [name for name, uses in Counter(dataset.name for dataset in datasets).items() if uses > 1]
    if twice:
        raise UsageError(f"expected data sets of different names, found {twice[0]!r} twice; rename a folder")


def _disjoint(datasets: Sequence[ImageDataset], way: int) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(turn, data set, classes) until all classes are used up."""
    chunks = []
    for dataset in datasets:
        names = sorted(dataset.classes)
        parts = [tuple(names[start : start + way]) for start in range(0, len(names), way)]
        chunks.append([part for part in parts if len(part) > 1])
    for turn in range(max(map(len, chunks))):
        for index, parts in enumerate(chunks):
            if turn < len(parts):
                yield turn, index, parts[turn]


def _random(datasets: Sequence[ImageDataset], way: int, seed: int) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(turn, data set, classes) without end."""
    for number in count():
        turn, index = divmod(number, len(datasets))
        names = sorted(datasets[index].classes)
        drawn = rng(seed, "member", number, "classes").choice(len(names), way, replace=False)
        yield turn, index, tuple(names[position] for position in drawn)
