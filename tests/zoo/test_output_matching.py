"""Matching of outputs by given predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dfml.zoo.label_space import build_label_space
from dfml.zoo.output_matching import OutputMatch, describe_matches, match_outputs, matched_identity, mean_profile


def profiles(classes: list[list[int]], confidence: float = 0.9, total: int = 8) -> list[Tensor]:
    """Profiles of members with known classes: a member recognises its classes and spreads other images evenly."""
    rows = []
    for own in classes:
        parts = []
        for other in classes:
            part = torch.full((len(own), len(other)), 1.0 / len(other))
            for row, name in enumerate(own):
                if name in other:
                    part[row] = (1.0 - confidence) / (len(other) - 1)
                    part[row, other.index(name)] = confidence
            parts.append(part)
        rows.append(torch.cat(parts, dim=1))
    return rows


def test_outputs_that_members_recognise_in_each_other_match() -> None:
    classes = [[0, 1, 2], [2, 3, 0], [4, 5, 6]]
    found = match_outputs(profiles(classes))
    assert {(match.first, match.second) for match in found} == {((0, 0), (1, 2)), ((0, 2), (1, 0))}
    assert all(0.65 <= match.score <= 1.0 for match in found)


def test_the_threshold_leaves_out_uncertain_matches() -> None:
    classes = [[0, 1, 2], [0, 1, 3], [4, 5, 6]]
    assert match_outputs(profiles(classes, confidence=0.4)) == []
    assert len(match_outputs(profiles(classes, confidence=0.4), threshold=0.5)) == 2


def test_recognition_in_one_direction_is_no_match() -> None:
    made = profiles([[0, 1], [0, 2], [3, 4]])
    made[0][0, 2:4] = torch.tensor([0.1, 0.9])  # member 1 takes images of member 0's class for another one
    assert match_outputs(made) == []


def test_an_output_without_images_matches_nothing() -> None:
    made = profiles([[0, 1], [0, 2], [3, 4]])
    made[0][0] = float("nan")
    assert match_outputs(made) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.permutations(range(8)).map(lambda order: list(order[:4])), min_size=2, max_size=5))
def test_with_perfect_predictions_exactly_the_same_classes_match(classes: list[list[int]]) -> None:
    found = match_outputs(profiles(classes, confidence=1.0), threshold=0.9)
    assert all(classes[m.first[0]][m.first[1]] == classes[m.second[0]][m.second[1]] for m in found)
    members = [(f"m{index}", tuple(f"{index}{name}" for name in own)) for index, own in enumerate(classes)]
    identity = matched_identity(members, found)
    space = build_label_space(members, identity)
    assert [len(set(of)) for of in space.of_member] == [4] * len(classes)


def test_classes_have_the_most_common_name_and_the_others_their_own() -> None:
    members = [("a", ("cat", "dog")), ("b", ("gatto", "0")), ("c", ("cat", "LABEL_1"))]
    matches = [
        OutputMatch((0, 0), (1, 0), 0.95),
        OutputMatch((0, 0), (2, 0), 0.94),
        OutputMatch((1, 0), (2, 0), 0.93),
        OutputMatch((1, 1), (2, 1), 0.9),
    ]
    identity = matched_identity(members, matches)
    assert identity["a"] == {"cat": "cat", "dog": "a/dog"}
    assert identity["b"] == {"gatto": "cat", "0": "b/0"}
    assert identity["c"] == {"cat": "cat", "LABEL_1": "b/0"}
    listed = describe_matches(members, matches, identity)
    assert listed[0] == ("a/cat", "b/gatto", 0.95)
    assert len(listed) == len(matches)


def test_a_chain_of_matches_does_not_join_all() -> None:
    members = [(name, (name.upper(), f"{name}-other")) for name in "abc"]
    chain = [OutputMatch((0, 0), (1, 0), 0.9), OutputMatch((1, 0), (2, 0), 0.8)]
    identity = matched_identity(members, chain)
    assert identity["a"]["A"] == identity["b"]["B"] != identity["c"]["C"]
    assert describe_matches(members, chain, identity) == [("a/A", "b/B", 0.9)]


def test_two_outputs_of_one_member_are_never_one_class() -> None:
    members = [("a", ("x", "y")), ("b", ("z", "w"))]
    matches = [OutputMatch((0, 0), (1, 0), 0.9), OutputMatch((0, 1), (1, 0), 0.8)]
    identity = matched_identity(members, matches)
    assert identity["a"]["x"] == identity["b"]["z"] != identity["a"]["y"]


def test_profiles_are_means_over_images_that_the_member_itself_confirms() -> None:
    probabilities = {0: torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), 1: torch.tensor([[1.0], [1.0], [1.0]])}
    labels, confirmed = torch.tensor([0, 0, 1]), torch.tensor([True, False, False])
    found = mean_profile(probabilities, labels, confirmed, 2)
    assert found[0].tolist() == pytest.approx([0.9, 0.1, 1.0])
    assert found[1].isnan().all()
    both = mean_profile(probabilities, labels, torch.tensor([True, True, True]), 2)
    assert both[0].tolist() == pytest.approx([0.55, 0.45, 1.0])
    assert functional.mse_loss(both[1], torch.tensor([0.7, 0.3, 1.0])) < 1e-12
