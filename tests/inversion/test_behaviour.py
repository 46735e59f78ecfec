"""Class identity by behaviour: the same network under other names is recognised output by output."""

from __future__ import annotations

import pytest
import torch

from dfml.errors import ZooError
from dfml.inversion.behaviour import identity_by_behaviour
from dfml.inversion.invert import inversion_settings
from dfml.zoo import CountedMember, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member

SHORT = inversion_settings("ei", None, {"steps": 60, "search_steps": 0})
ORDER = [2, 0, 1]


def reordered(labels: tuple[str, ...]) -> PretrainedClassifier:
    """The first member with its outputs in another order and with other names."""
    copy = member(0)
    head = copy.network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        head.weight.copy_(head.weight[ORDER])
        head.bias.copy_(head.bias[ORDER])
    return PretrainedClassifier(copy.network, labels, PREPROCESSING)


def test_the_same_outputs_under_other_names_become_one_class() -> None:
    zoo = Zoo.of([member(0, ("ant", "bee", "cat")), reordered(("0", "1", "2"))], class_identity="distinct")
    steps: list[tuple[int, int]] = []
    found = identity_by_behaviour(
        zoo, config=SHORT, per_class=4, threshold=0.3, on_member=lambda *done: steps.append(done)
    )
    assert found.mapping["member-000"] == {"ant": "ant", "bee": "bee", "cat": "cat"}
    assert found.mapping["member-001"] == {"0": "cat", "1": "ant", "2": "bee"}
    assert {(one, other) for one, other, _ in found.pairs} == {
        ("member-000/ant", "member-001/1"),
        ("member-000/bee", "member-001/2"),
        ("member-000/cat", "member-001/0"),
    }
    assert steps == [(1, 2), (2, 2)]
    merged = Zoo.of([zoo[0], zoo[1]], class_identity=found.mapping)
    assert len(merged.classes) == 3


def test_members_that_cannot_be_inverted_keep_classes_of_their_own() -> None:
    zoo = Zoo.of([member(0), CountedMember(member(0)), reordered(("x", "y", "z"))])
    found = identity_by_behaviour(zoo, config=SHORT, per_class=4, threshold=0.3)
    assert set(found.left_out) == {"member-001"}
    assert found.mapping["member-001"] == {label: f"member-001/{label}" for label in "abc"}
    assert found.mapping["member-002"]["y"] == found.mapping["member-000"]["a"]


def test_one_member_alone_is_an_error() -> None:
    with pytest.raises(ZooError, match="at least two members that can be inverted, found 1"):
        identity_by_behaviour(Zoo.of([member(0)]), config=SHORT)
