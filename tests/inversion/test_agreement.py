from __future__ import annotations

import torch
from torch import Tensor

from dfml.inversion.agreement import CrossMemberAgreement
from dfml.zoo import Zoo
from tests.factories import member


def says(outputs: list[int], way: int) -> Tensor:
    """Scores of somebody who names these outputs."""
    return torch.nn.functional.one_hot(torch.tensor(outputs), way).float()


def zoo() -> Zoo:
    return Zoo.of(
        [member(0, ("ant", "bat", "cat")), member(1, ("bat", "cat", "dog", "elk")), member(2, ("fox", "gnu"))]
    )


def test_only_images_of_shared_classes_are_counted_each_under_the_output_of_whoever_was_asked() -> None:
    agreement = CrossMemberAgreement(zoo())
    labels = torch.tensor([0, 1, 1, 2])  # ant, bat, bat, cat as member 0 has them
    agreement.add(0, labels, {0: says([0, 1, 1, 2], 3), 1: says([0, 0, 3, 1], 4), 2: says([0, 0, 0, 0], 2)})
    assert agreement.queried.tolist() == [0, 0, 0, 2, 1, 0, 0, 0, 0]
    assert agreement.recognised.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_whoever_answers_nothing_has_no_opinion() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(30), {1: torch.full((60, 4), torch.nan)})
    assert agreement.queried.sum() == 0


def test_images_that_not_even_who_recalled_them_recognises_are_no_evidence() -> None:
    agreement = CrossMemberAgreement(zoo())
    labels, wrong = torch.tensor([1, 2]).repeat(50), says([0, 0], 3).repeat(50, 1)
    agreement.add(0, labels, {0: wrong, 1: says([3, 3], 4).repeat(50, 1)})
    assert agreement.queried.sum() == 0
    assert agreement.warnings() == []
    agreement.add(0, labels, {0: says([1, 0], 3).repeat(50, 1), 1: says([3, 3], 4).repeat(50, 1)})
    assert agreement.queried.tolist() == [0, 0, 0, 50, 0, 0, 0, 0, 0]


def test_sound_members_raise_no_doubt_and_few_images_are_no_evidence() -> None:
    agreement = CrossMemberAgreement(zoo())
    assert agreement.warnings() == []
    agreement.add(0, torch.tensor([1, 2]).repeat(30), {1: says([0, 1], 4).repeat(30, 1)})
    assert agreement.warnings() == []
    few = CrossMemberAgreement(zoo())
    few.add(0, torch.tensor([1]).repeat(39), {1: says([3], 4).repeat(39, 1)})
    assert few.warnings() == []


def test_a_member_that_guesses_is_named() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(40), {1: says([0, 0, 3, 3], 4).repeat(20, 1)})
    (line,) = agreement.warnings()
    assert line.startswith("member-001 recognises 20 of 80 images of its classes that were recovered from")
    assert "chance level" in line


def test_one_class_that_means_something_else_is_named() -> None:
    agreement = CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(50), {1: says([2, 1], 4).repeat(50, 1)})
    (line,) = agreement.warnings()
    assert line.startswith("member-001 recognises 0 of 50 images of 'bat' that were recovered from other members")
    assert "--class-identity" in line


def test_the_counts_survive_a_checkpoint() -> None:
    agreement, restored = CrossMemberAgreement(zoo()), CrossMemberAgreement(zoo())
    agreement.add(0, torch.tensor([1, 2]).repeat(50), {1: says([2, 1], 4).repeat(50, 1)})
    restored.load_state_dict(agreement.state_dict())
    assert restored.warnings() == agreement.warnings() != []
