"""Which outputs of different members are the same class."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.errors import ConfigError
from dfml.zoo.label_space import LabelSpace, build_label_space, read_identity

NAMES = st.text("abcdef _-", min_size=1, max_size=4)
PLACEHOLDERS = st.from_regex(r"(class|label|cls|category|LABEL|Class)?[ _-]?[0-9]{1,3}", fullmatch=True)
LABELS = st.lists(NAMES | PLACEHOLDERS, min_size=1, max_size=5, unique=True).map(tuple)
MEMBERS = st.lists(LABELS, max_size=5).map(lambda each: [(f"member-{i}", labels) for i, labels in enumerate(each)])


def outputs(
    members: list[tuple[str, tuple[str, ...]]], space: LabelSpace
) -> list[tuple[int, str, int]]:  # member, label, class
    return [
        (index, label, space.of_member[index][output])
        for index, (_, labels) in enumerate(members)
        for output, label in enumerate(labels)
    ]


@given(MEMBERS, st.sampled_from(["names", "distinct"]))
def test_every_output_has_one_class_and_every_class_a_name(
    members: list[tuple[str, tuple[str, ...]]], identity: str
) -> None:
    space = build_label_space(members, identity)
    assert [len(classes) for classes in space.of_member] == [len(labels) for _, labels in members]
    assert {index for classes in space.of_member for index in classes} == set(range(len(space)))
    assert len(set(space.names)) == len(space)
    assert all(len(set(classes)) == len(classes) for classes in space.of_member)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=5, unique=True).map(tuple), max_size=5))
def test_only_equal_names_merge(labels: list[tuple[str, ...]]) -> None:
    members = [(f"member-{i}", each) for i, each in enumerate(labels)]
    space = build_label_space(members)
    for _, label, index in outputs(members, space):
        for _, other, other_index in outputs(members, space):
            assert (label == other) == (index == other_index)
            assert space.names[index] == label


@given(st.lists(st.lists(PLACEHOLDERS, min_size=1, max_size=5, unique=True).map(tuple), max_size=5))
def test_placeholder_names_never_merge(labels: list[tuple[str, ...]]) -> None:
    space = build_label_space([(f"member-{i}", each) for i, each in enumerate(labels)])
    assert len(space) == sum(map(len, labels))
    assert space.merges() == {}


@given(MEMBERS)
def test_distinct_never_merges(members: list[tuple[str, tuple[str, ...]]]) -> None:
    space = build_label_space(members, "distinct")
    assert len(space) == sum(len(labels) for _, labels in members)


@given(MEMBERS)
def test_merges_list_the_members_of_every_shared_class(members: list[tuple[str, tuple[str, ...]]]) -> None:
    space = build_label_space(members)
    for index, name in enumerate(space.names):
        sharing = [member for member, classes in enumerate(space.of_member) if index in classes]
        assert space.merges().get(name, sharing) == sharing
        assert (name in space.merges()) == (len(sharing) > 1)


@pytest.mark.parametrize("name", ["0", "17", "class_3", "class 3", "Class3", "LABEL_0", "label-1", " 4 ", "cls12"])
def test_numbered_labels_are_placeholders(name: str) -> None:
    assert len(build_label_space([("a", (name,)), ("b", (name,))])) == 2


@pytest.mark.parametrize("name", ["ant", "n01532829", "boeing 747", "class", "3d printer", "label_a", "7up"])
def test_all_other_labels_are_names(name: str) -> None:
    assert build_label_space([("a", (name,)), ("b", (name,))]).merges() == {name: [0, 1]}


def test_a_mapping_applies_to_the_labels_that_it_names() -> None:
    members = [("a", ("0", "cat")), ("b", ("katze", "cat")), ("c", ("0", "dog"))]
    space = build_label_space(members, {"a": {"0": "dog"}, "b": {"katze": "lynx"}})
    assert space.merges() == {"dog": [0, 2], "cat": [0, 1]}
    assert set(space.names) == {"dog", "cat", "lynx", "c/0"}


def test_two_outputs_of_one_member_cannot_be_one_class() -> None:
    with pytest.raises(ConfigError, match="two outputs of a"):
        build_label_space([("a", ("cat", "chat"))], {"a": {"chat": "cat"}})


def test_an_unknown_identity_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be 'names', 'distinct' or a mapping"):
        build_label_space([("a", ("cat",))], "labels")


def test_identity_is_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("member-000:\n  0: cat\n  chien: dog\n")
    assert read_identity("names") == "names"
    assert read_identity("distinct") == "distinct"
    assert read_identity(str(path)) == {"member-000": {"0": "cat", "chien": "dog"}}


@pytest.mark.parametrize("content", ["[", "- a", "a: b", "just text", ""])
def test_a_damaged_map_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"map\.yaml"):
        read_identity(str(path))


def test_a_missing_map_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 'names', 'distinct' or a YAML file"):
        read_identity(str(tmp_path / "nothing.yaml"))
