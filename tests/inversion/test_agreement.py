from __future__ import annotations

import torch
from torch import Tensor

from dfml.inversion.agreement import CrossMemberAgreement
from dfml.zoo import Zoo
from tests.factories import member


def scores(outputs: list[int], way: int) -> Tensor:
    """Scores whose largest value in each row is at the given output."""
    return torch.nn.functional.one_hot(torch.tensor(outputs), way).float()


def zoo() -> Zoo:
    return Zoo.of(
        [member(0, ("ant", "bat", "cat")), member(1, ("bat", "cat", "dog", "elk")), member(2, ("fox", "gnu"))]
    )


def test_only_images_of_shared_classes_are_counted_under_the_output_of_the_queried_member() -> None:
    agreement = CrossMemberAgreement(zoo())
    labels = torch.tensor([0, 1, 1, 2])  # ant, bat, bat, cat: outputs of member 0
    agreement.add(0, labels, {0: scores([0, 1, 1, 2], 3), 1: scores([0, 0, 3, 1], 4), 2: scores([0, 0, 0, 0], 2)})
    assert agreement.queried.tolist() == [0, 0, 0, 2, 1, 0, 0, 0, 0]
    assert agreement.recognised.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_members_whose_scores_are_nan_are_not_counted() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(30), {1: torch.full((60, 4), torch.nan)})
    assert agreement.queried.sum() == 0


def test_images_that_their_own_member_does_not_recognise_are_not_counted() -> None:
    agreement = CrossMemberAgreement(zoo())
    labels, wrong = torch.tensor([1, 2]).repeat(50), scores([0, 0], 3).repeat(50, 1)
    agreement.add(0, labels, {0: wrong, 1: scores([3, 3], 4).repeat(50, 1)})
    assert agreement.queried.sum() == 0
    assert agreement.warnings() == []
    agreement.add(0, labels, {0: scores([1, 0], 3).repeat(50, 1), 1: scores([3, 3], 4).repeat(50, 1)})
    assert agreement.queried.tolist() == [0, 0, 0, 50, 0, 0, 0, 0, 0]


def test_there_is_no_warning_if_members_agree_or_images_are_few() -> None:
    agreement = CrossMemberAgreement(zoo())
    assert agreement.warnings() == []
    agreement.add(0, torch.tensor([1, 2]).repeat(30), {1: scores([0, 1], 4).repeat(30, 1)})
    assert agreement.warnings() == []
    few = CrossMemberAgreement(zoo())
    few.add(0, torch.tensor([1]).repeat(39), {1: scores([3], 4).repeat(39, 1)})
    assert few.warnings() == []


def test_a_warning_names_a_member_at_chance_level() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(40), {1: scores([0, 0, 3, 3], 4).repeat(20, 1)})
    (line,) = agreement.warnings()
    assert line.startswith("member-001 recognises 20 of 80 images of its classes that were recovered from")
    assert "chance level" in line


def test_a_warning_names_a_class_that_other_members_contradict() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(50), {1: scores([2, 1], 4).repeat(50, 1)})
    (line,) = agreement.warnings()
    assert line.startswith("member-001 recognises 0 of 50 images of 'bat' that were recovered from other members")
    assert "--class-identity" in line


def test_a_loaded_state_dict_has_the_same_counts() -> None:
    agreement, restored = CrossMemberAgreement(zoo()), CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(50), {1: scores([2, 1], 4).repeat(50, 1)})
    restored.load_state_dict(agreement.state_dict())
    assert restored.warnings() == agreement.warnings() != []
