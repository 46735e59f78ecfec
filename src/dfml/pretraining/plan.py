"""The plan of a zoo: the classes, the data set and the architecture of every member."""

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
    """The plan of one member.

    Attributes:
        number: Its position in the zoo, which its random draws are seeded by.
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


def plan_members(
    datasets: Sequence[ImageDataset],
    *,
    members: int | None,
    way: int,
    architectures: Sequence[str],
    disjoint: bool,
    seed: int,
) -> list[MemberPlan]:
    """Plan a zoo. The plan of member i does not depend on the number of members.

    Members take turns between the data sets; in turn t, data set d gets architecture (t + d) modulo their number, so
    that all pairs occur if there are enough members. The classes of a member are

    - if disjoint, the next `way` classes of its data set in sorted order. The last member of a data set may have fewer;
      a single class that remains is left out, because one class is nothing to classify. A data set without further
      classes is skipped.
    - otherwise, a random subset of its data set's classes, so that members overlap.

    Args:
        datasets: Data sets with distinct names.
        members: Number of members; None for as many as there are disjoint sets of classes (only with `disjoint`).
        way: Number of classes per member.
        architectures: Names of at least one architecture.
        disjoint: Whether no two members share a class.
        seed: Seed of the random subsets.

    Raises:
        UsageError: If the plan cannot be made.
    """
    _check(datasets, members, way, architectures, disjoint)
    subsets = _disjoint(datasets, way) if disjoint else _random(datasets, way, seed)
    chosen = list(islice(subsets, members))
    if members is not None and len(chosen) < members:
        raise UsageError(
            f"expected at most {len(chosen)} members, the number of disjoint sets of {way} classes; "
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
    """Yield (turn, data set, classes) until all classes are used up."""
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
    """Yield (turn, data set, classes) without end."""
    for number in count():
        turn, index = divmod(number, len(datasets))
        names = sorted(datasets[index].classes)
        positions = rng(seed, "member", number, "classes").choice(len(names), way, replace=False)
        yield turn, index, tuple(names[position] for position in positions)
