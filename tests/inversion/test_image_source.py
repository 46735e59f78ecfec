from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dfml.errors import RunError
from dfml.images import resize_and_crop
from dfml.inversion.engine import Target, balanced_labels, recover
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import create_engine
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member, zoo
from tests.inversion.small import CoarseStudent, small_config

LARGER = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))


def source(members: Zoo | None = None, engine: str = "ei", *, seed: int = 0, **settings: Any) -> ImageSource:
    config = small_config(engine, **{"steps": 3, **settings})
    return ImageSource(config, members or zoo(), PREPROCESSING, patience=2, seed=seed)


def broken(seed: int) -> PretrainedClassifier:
    classifier = member(seed)
    classifier.network.get_classifier().weight.fill_(math.nan)  # type: ignore[operator]
    return classifier


def same(first: dict[int, Tensor], second: dict[int, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(each, second[index]) for index, each in first.items())


def test_members_are_drawn_without_repetition_anew_at_every_round_and_all_in_turn() -> None:
    members = zoo(5)
    each, again, other = source(members), source(members), source(members, seed=1)
    drawn = [each.sample_members(round_index, 2) for round_index in range(60)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    assert {index for pair in drawn for index in pair} == set(range(5))
    assert drawn == [again.sample_members(round_index, 2) for round_index in range(60)]
    assert drawn != [other.sample_members(round_index, 2) for round_index in range(60)]
    assert sorted(each.sample_members(0, 9)) == [0, 1, 2, 3, 4]


def test_members_in_turn_are_all_visited_equally_often_in_an_order_that_changes() -> None:
    members = zoo(6)
    each, again = source(members), source(members)
    rounds = [[each.next_members(3 * turn + round_index, 2) for round_index in (1, 2, 3)] for turn in range(8)]
    assert all(sorted(index for pair in pairs for index in pair) == list(range(6)) for pairs in rounds)
    assert len({tuple(map(tuple, pairs)) for pairs in rounds}) == 8
    assert rounds[5][1] == again.next_members(17, 2)
    assert sorted(each.next_members(1, 6)) == list(range(6))
    rounds = [each.next_members(round_index, 4) for round_index in range(1, 301)]  # some lie in two rounds
    assert all(0 < len(chosen) == len(set(chosen)) for chosen in rounds)
    counts = torch.bincount(torch.tensor([index for chosen in rounds for index in chosen]))
    assert counts.max() < 1.1 * counts.min()
    each.failures.excluded = {members.name(index): "broken" for index in (0, 1, 2, 3)}
    assert all(
        each.next_members(round_index, 2) and not set(each.next_members(round_index, 2)) & {0, 1, 2, 3}
        for round_index in range(1, 10)
    )


@pytest.mark.numeric
def test_images_come_in_the_order_of_labels_as_many_of_every_class() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e")), member(2)])
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    each = source(members, steps=40, weights=weights)
    found = each.recover([1, 0], 4, 7)
    assert {index: tuple(images.shape) for index, images in found.items()} == {1: (8, 3, 16, 16), 0: (12, 3, 16, 16)}
    for index, images in found.items():
        assert 0 <= images.min() < images.max() <= 1
        labels = each.labels(index, 4, 7)
        assert labels.tolist() == [label for label in range(len(members[index].labels)) for _ in range(4)]
        assert torch.equal(members[index].logits(images).argmax(dim=1), labels)
    assert set(each.last) == {"inversion_loss", "batch_norm_distance", "disagreement"}
    assert 0.0 < each.last["inversion_loss"] < 0.5


def test_of_many_classes_a_visit_recovers_some_and_rounds_come_to_all() -> None:
    members = Zoo.of([member(0, tuple("abcdefgh")), member(1)])
    config = small_config("ei", steps=3).model_copy(update={"classes_per_round": 3})
    each, again = (ImageSource(config, members, PREPROCESSING, patience=2) for _ in range(2))
    labels = [each.labels(0, 2, round_index) for round_index in range(30)]
    assert all(found[::2].tolist() == found[1::2].tolist() == sorted(set(found.tolist())) for found in labels)
    assert {len(found) for found in labels} == {6} == {each.most_images(2)}
    assert set(torch.cat(labels).tolist()) == set(range(8))
    assert all(torch.equal(again.labels(0, 2, round_index), labels[round_index]) for round_index in (7, 3))
    assert each.labels(1, 2, 7).tolist() == [0, 0, 1, 1, 2, 2]
    target = Target(members.name(0), members[0], labels[7])
    assert torch.equal(each.recover([0], 2, 7)[0], *recover(create_engine(config, PREPROCESSING), [target], 7))


@pytest.mark.parametrize("engine", ["ei", "five"])
def test_a_round_gives_what_the_engine_recovers_in_the_size_that_was_asked_for(engine: str) -> None:
    members = Zoo.of([member(0), member(1), member(2, ("d", "e", "f"), LARGER)])
    each = source(members, engine)
    expected = recover(
        create_engine(small_config(engine, steps=3), PREPROCESSING),
        [Target(members.name(index), members[index], balanced_labels(3, 2)) for index in (2, 0)],
        5,
    )
    found = each.recover([2, 0], 2, 5)
    assert same(found, {index: resize_and_crop(images, 16) for index, images in zip((2, 0), expected, strict=True)})
    assert not same(found, source(members, engine).recover([2, 0], 2, 6))
    assert not same(found, source(members, engine, seed=1).recover([2, 0], 2, 5))


def test_a_bad_member_is_left_out_named_once_and_not_drawn_again() -> None:
    members = Zoo.of([member(0), broken(1), member(2)])
    each = source(members)
    found = each.recover([0, 1, 2], 2, 1)
    assert same(found, source(members).recover([0, 2], 2, 1))
    assert math.isfinite(each.last["inversion_loss"])
    assert each.pop_messages() == ["member-001 is excluded: the generator diverged (its loss is not finite)"]
    assert each.pop_messages() == []
    assert all(sorted(each.sample_members(round_index, 3)) == [0, 2] for round_index in range(5))


def test_without_any_good_member_the_run_ends_with_a_reason() -> None:
    each = source(Zoo.of([broken(0), broken(1)]))
    with pytest.raises(
        RunError, match=r"no member is left to learn from: of 2, member-00\d was excluded first: the gen"
    ):
        each.recover([0, 1], 2, 1)


def test_a_student_that_is_not_finite_is_no_fault_of_the_members() -> None:
    weights = InversionWeights(disagreement=1.0, divergence="js")
    each, own = source(zoo(), weights=weights), [torch.zeros(2), torch.tensor([1.0, math.nan])]

    def student(images: Tensor, rows: Tensor | None) -> Tensor:
        return CoarseStudent()(images, torch.tensor([0, 1, 2])) * own[1].sum()

    with pytest.raises(RunError, match="the generator or the learner itself is not finite"):
        each.recover([0, 1], 2, 1, student=student, own=own)
    assert len(source(zoo()).recover([0, 1], 2, 1, own=own)) == 2  # nobody failed: nothing to explain


def test_the_student_is_asked_with_each_member_s_own_rows() -> None:
    rows, asked = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6, 7, 0])], []
    weights = InversionWeights(disagreement=1.0, divergence="js")
    each = ImageSource(small_config("ei", steps=1, weights=weights), zoo(), PREPROCESSING, patience=2, rows=rows)

    def student(images: Tensor, of: Tensor | None) -> Tensor:
        assert of is not None
        asked.append(of.tolist())
        return CoarseStudent()(images, of)

    each.recover([2, 0], 2, 1, student=student)
    assert asked == [[6, 7, 0], [0, 1, 2]]
    assert each.last["disagreement"] > 0


def test_a_round_without_steps_gives_first_pixels_that_are_judged_and_no_losses() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER)])
    each = source(members, steps=0, start="dead_leaves")
    found = each.recover([0, 1], 2, 1)
    assert {index: len(images) for index, images in found.items()} == {0: 6, 1: 4}
    assert all(images.shape[2:] == (16, 16) for images in found.values())
    assert each.last == {}
    assert same(found, source(members, steps=0, start="dead_leaves").recover([0, 1], 2, 1))
    assert not same(found, each.recover([0, 1], 2, 2))


@pytest.mark.parametrize("engine", ["ei", "five"])
def test_what_was_learned_of_engine_and_members_outlives_an_interruption(engine: str) -> None:
    members = Zoo.of([member(0), broken(1), member(2)])
    weights = InversionWeights(batch_norm=0.1, momentum=0.5)
    straight, resumed = (source(members, engine, weights=weights) for _ in range(2))
    straight.recover([0, 1, 2], 2, 1)
    tensors, values = straight.state_dict()
    resumed.load_state_dict(
        {name: value.detach().clone() for name, value in tensors.items()}, json.loads(json.dumps(values))
    )
    assert straight.sample_members(2, 3) == resumed.sample_members(2, 3)
    expected = straight.recover([0, 2], 2, 2)
    assert same(expected, resumed.recover([0, 2], 2, 2))
    assert straight.last == resumed.last
    assert not same(
        expected, source(members, engine, weights=weights).recover([0, 2], 2, 2)
    )  # it had learned something


def test_a_state_of_another_engine_is_refused() -> None:
    tensors, values = source(engine="five").state_dict()
    with pytest.raises(RunError, match="of a run with the engine five, not ei; use the same one"):
        source(engine="ei").load_state_dict(tensors, values)
