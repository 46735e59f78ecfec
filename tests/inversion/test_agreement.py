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


def four(*wrong: int) -> CrossMemberAgreement:
    """Four members of the same four classes, each inverted and queried; those in `wrong` have other labels."""
    labels = ("ant", "bat", "cat", "dog")
    agreement = CrossMemberAgreement(Zoo.of([member(index, labels) for index in range(4)]))
    shown = torch.arange(4).repeat_interleave(10)
    for source in range(4):
        content = (shown + 1) % 4 if source in wrong else shown  # what the images show, under right labels
        predictions = {
            judge: scores(((content + 3) % 4 if judge in wrong else content).tolist(), 4) for judge in range(4)
        }
        agreement.add(source, shown, predictions)
    return agreement


def test_a_member_with_exchanged_labels_is_contradicted_and_the_others_are_not() -> None:
    (reason,) = [four(2).contradicted()]
    assert list(reason) == [2]
    assert "recognises 0 of 120 images" in reason[2]
    assert "from 3 other members" in reason[2]
    assert four().contradicted() == {}


def test_members_that_contradict_each_other_are_kept_if_nobody_agrees_with_either() -> None:
    agreement = CrossMemberAgreement(Zoo.of([member(0), member(1)]))
    labels = torch.arange(3).repeat_interleave(50)
    for source in range(2):
        other = scores(((labels + 1) % 3).tolist(), 3)
        agreement.add(source, labels, {source: scores(labels.tolist(), 3), 1 - source: other})
    assert agreement.contradicted() == {}


def test_an_inaccurate_member_that_is_better_than_chance_is_not_contradicted() -> None:
    agreement = CrossMemberAgreement(Zoo.of([member(index, ("ant", "bat", "cat", "dog")) for index in range(4)]))
    labels = torch.arange(4).repeat_interleave(20)
    weak = torch.where(torch.arange(80) % 20 < 7, labels, (labels + 1 + torch.arange(80) % 3) % 4)  # 35%
    for source in range(3):
        right = scores(labels.tolist(), 4)
        agreement.add(source, labels, {**dict.fromkeys(range(3), right), 3: scores(weak.tolist(), 4)})
    assert agreement.contradicted() == {}


def test_a_member_that_was_asked_about_few_images_or_one_member_is_not_contradicted() -> None:
    labels = torch.arange(4).repeat_interleave(30)
    right, wrong = scores(labels.tolist(), 4), scores(((labels + 1) % 4).tolist(), 4)
    zoo_of_four = Zoo.of([member(index, ("ant", "bat", "cat", "dog")) for index in range(4)])
    one_source = CrossMemberAgreement(zoo_of_four)
    one_source.add(0, labels, {0: right, 1: right, 2: right, 3: wrong})
    assert one_source.contradicted() == {}
    few = CrossMemberAgreement(zoo_of_four)
    for source in range(3):
        few.add(source, labels[::4], {0: right[::4], 1: right[::4], 2: right[::4], 3: wrong[::4]})
    assert few.contradicted() == {}
    few.add(0, labels, {0: right, 1: right, 2: right, 3: wrong})
    assert list(few.contradicted()) == [3]
    restored = CrossMemberAgreement(zoo_of_four)
    restored.load_state_dict(few.state_dict())
    assert restored.contradicted() == few.contradicted()


def test_judges_are_other_members_with_a_class_in_common() -> None:
    agreement = CrossMemberAgreement(zoo())
    draws = torch.Generator().manual_seed(0)
    assert agreement.draw_members_sharing_classes(0, 5, draws) == [1]
    assert agreement.draw_members_sharing_classes(2, 5, draws) == []
    many = CrossMemberAgreement(Zoo.of([member(index) for index in range(6)]))
    drawn = [many.draw_members_sharing_classes(2, 3, draws) for _ in range(20)]
    assert all(len(set(judges)) == 3 and 2 not in judges for judges in drawn)
    assert {index for judges in drawn for index in judges} == {0, 1, 3, 4, 5}
