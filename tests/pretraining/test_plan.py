"""The plan of a zoo: classes, data sets and architectures of its members."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.data.dataset import ImageDataset
from dfml.errors import UsageError
from dfml.pretraining.plan import MemberPlan, combination, plan_members

from .images import patterns


def names(count: int, prefix: str = "c") -> tuple[str, ...]:
    return tuple(f"{prefix}{index:02d}" for index in range(count))


def plan(*class_names: tuple[str, ...], **settings: object) -> list[MemberPlan]:
    datasets = [patterns(each, per_class=1, size=1, name=f"set{i}") for i, each in enumerate(class_names)]
    chosen: dict[str, object] = {"members": None, "way": 5, "architectures": ["conv4"], "disjoint": True, "seed": 0}
    return plan_members(datasets, **{**chosen, **settings})  # type: ignore[arg-type]


def test_disjoint_classes_are_taken_in_sorted_order() -> None:
    classes = names(64)
    members = plan(classes[::-1])
    assert [member.classes for member in members] == [classes[start : start + 5] for start in range(0, 64, 5)]
    assert [len(member.classes) for member in members] == [5] * 12 + [4]
    assert [member.name for member in members][::6] == ["member-000", "member-006", "member-012"]


def test_a_single_class_that_remains_is_left_out() -> None:
    assert [member.classes for member in plan(names(7), way=3)] == [names(7)[:3], names(7)[3:6]]
    assert [len(member.classes) for member in plan(names(8), way=3)] == [3, 3, 2]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=3), st.integers(2, 6))
def test_disjoint_members_share_nothing_and_leave_out_one_class_at_most(counts: list[int], way: int) -> None:
    way = min(way, *counts)
    sets = [names(count, prefix=f"set{index}-") for index, count in enumerate(counts)]
    members = plan(*sets, way=way)
    for index, classes in enumerate(sets):
        used = [name for member in members if member.dataset == index for name in member.classes]
        assert len(set(used)) == len(used)
        assert set(used) <= set(classes)
        assert len(classes) - len(used) == (1 if len(classes) % way == 1 else 0)
    assert all(2 <= len(member.classes) <= way for member in members)
    assert [member.number for member in members] == list(range(len(members)))


@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 2**32), st.data())
def test_random_members_are_subsets_that_do_not_depend_on_how_many_follow(
    count: int, members: int, seed: int, data: st.DataObject
) -> None:
    way = data.draw(st.integers(2, count))
    chosen = plan(names(count), members=members, way=way, disjoint=False, seed=seed)
    assert len(chosen) == members
    for member in chosen:
        assert len(set(member.classes)) == way
        assert set(member.classes) <= set(names(count))
    assert plan(names(count), members=members + 3, way=way, disjoint=False, seed=seed)[:members] == chosen


def test_random_members_differ_and_follow_the_seed() -> None:
    first, again, other = (plan(names(64), members=20, disjoint=False, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert len({member.classes for member in first}) == 20
    assert {member.classes for member in first}.isdisjoint(member.classes for member in other)
    assert any(list(member.classes) != sorted(member.classes) for member in first)


def test_members_alternate_between_architectures() -> None:
    members = plan(names(64), architectures=["a", "b", "c"])
    assert [member.architecture for member in members] == ["a", "b", "c"] * 4 + ["a"]


@pytest.mark.parametrize("disjoint", [True, False])
def test_members_alternate_between_data_sets_and_all_pairs_occur(disjoint: bool) -> None:
    sets = [names(30, "x"), names(30, "y"), names(30, "z")]
    members = plan(*sets, architectures=["a", "b", "c"], disjoint=disjoint, members=18, way=5)
    assert [member.dataset for member in members] == [0, 1, 2] * 6
    pairs = [(member.dataset, member.architecture) for member in members]
    assert set(pairs[:9]) == {(dataset, architecture) for dataset in range(3) for architecture in "abc"}
    assert len({architecture for _, architecture in pairs[:3]}) == 3


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 100))
def test_any_window_of_steps_has_every_pair_of_architecture_and_way_once(a: int, w: int, start: int) -> None:
    pairs = [combination(step, a, w) for step in range(start, start + a * w)]
    assert sorted(pairs) == [(architecture, way) for architecture in range(a) for way in range(w)]
    assert [architecture for architecture, _ in pairs] == [step % a for step in range(start, start + a * w)]


def at_sizes(classes: tuple[str, ...], sizes: Sequence[int], name: str = "set") -> list[ImageDataset]:
    """The same data at several image sizes."""
    return [patterns(classes, per_class=1, size=size, name=name) for size in sizes]


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(2, 6), min_size=1, max_size=4, unique=True),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_data_set_architecture_and_way_meet(
    sizes: int, others: int, ways: list[int], architectures: int, disjoint: bool, seed: int
) -> None:
    needed = 6 * sizes * architectures * len(ways)
    datasets = [
        *at_sizes(names(needed), range(1, sizes + 1)),
        *(patterns(names(needed, f"o{i}-"), per_class=1, size=1, name=f"other{i}") for i in range(others)),
    ]
    total = len(datasets) * architectures * len(ways)
    named = list("abcd"[:architectures])

    def planned(members: int) -> list[MemberPlan]:
        return plan_members(datasets, members=members, way=ways, architectures=named, disjoint=disjoint, seed=seed)

    members = planned(total)
    triples = {(member.dataset, member.architecture, len(member.classes)) for member in members}
    assert triples == {(index, each, way) for index in range(len(datasets)) for each in named for way in ways}
    for fewer in {1, total // 2, total - 1} - {0}:
        assert planned(fewer) == members[:fewer]


@given(st.integers(2, 40), st.integers(1, 3), st.lists(st.integers(2, 5), min_size=1, max_size=3), st.integers(1, 3))
def test_disjoint_members_of_several_ways_and_sizes_share_nothing(
    classes: int, sizes: int, ways: list[int], architectures: int
) -> None:
    ways = [min(way, classes) for way in ways]
    datasets = at_sizes(names(classes), range(1, sizes + 1))
    members = plan_members(
        datasets, members=None, way=ways, architectures=list("abc"[:architectures]), disjoint=True, seed=0
    )
    used = [label for member in members for label in member.labels]
    assert len(set(used)) == len(used)
    assert set(used) <= set(names(classes))  # no label is preceded by the data set's name
    assert len(used) >= classes - 1
    assert all(len(member.classes) >= 2 for member in members)
    assert [member.number for member in members] == list(range(len(members)))


def test_labels_of_the_same_data_at_two_sizes_are_the_same_classes() -> None:
    other = patterns(("bee", "cat"), per_class=1, size=1, name="other")
    members = plan_members(
        [*at_sizes(("ant", "bee"), (16, 24)), other], members=3, way=2, architectures=["a"], disjoint=False, seed=0
    )
    assert [set(member.labels) for member in members] == [{"ant", "set/bee"}, {"ant", "set/bee"}, {"other/bee", "cat"}]


def test_data_sets_of_one_name_must_be_the_same_data() -> None:
    first, _ = at_sizes(("ant", "bee"), (16, 24))
    for other in (
        patterns(("ant", "cat"), per_class=1, size=24, name="set"),
        patterns(("ant", "bee"), per_class=2, size=24, name="set"),
    ):
        with pytest.raises(UsageError, match="'set' twice with different classes or images"):
            plan_members([first, other], members=1, way=2, architectures=["a"], disjoint=False, seed=0)


def test_a_data_set_without_further_classes_is_skipped() -> None:
    members = plan(names(4, "x"), names(10, "y"), way=2)
    assert [member.dataset for member in members] == [0, 1, 0, 1, 1, 1, 1]


def test_a_name_in_two_data_sets_is_preceded_by_the_data_set() -> None:
    members = plan(("ant", "bee"), ("bee", "cat"), way=2)
    assert [member.labels for member in members] == [("ant", "set0/bee"), ("set1/bee", "cat")]
    assert [member.classes for member in members] == [("ant", "bee"), ("bee", "cat")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 13}, "way of at most 12, the classes of set0, found 13"),
        ({"way": 1}, "way of at least 2"),
        ({"way": (2, 1)}, "way of at least 2 classes, found 1"),
        ({"way": (2, 13)}, "way of at most 12, the classes of set0, found 13"),
        ({"way": ()}, "one way"),
        ({"way": (4, 8), "members": 3}, "at most 2 members, the number of disjoint sets of 4 or 8 classes"),
        ({"members": 0}, "at least 1 member"),
        ({"members": 4}, "at most 3 members.*found 4"),
        ({"disjoint": False}, "expected the number of members"),
        ({"architectures": []}, "one architecture"),
    ],
)
def test_what_cannot_be_planned_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(names(12), **settings)


def test_data_sets_need_names_of_their_own() -> None:
    same = patterns(per_class=1, size=1)
    with pytest.raises(UsageError, match="'patterns/train' twice"):
        plan_members([same, same], members=1, way=2, architectures=["conv4"], disjoint=False, seed=0)
