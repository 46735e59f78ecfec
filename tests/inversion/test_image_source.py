"""`ImageSource`: in every round, it picks members, recovers images from them and excludes members that fail.

The zoo of `tests.factories.zoo()` has three members of three classes each, for images of 16 x 16 pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import dfml
from dfml.errors import RunError, UsageError
from dfml.images import resize_and_crop
from dfml.inversion.engine import Target, balanced_labels, recover
from dfml.inversion.image_source import ImageSource
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import create_engine
from dfml.zoo import Differentiable, Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member, zoo
from tests.inversion.small import CoarseStudent, small_config

LARGER = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
DIVERGED = "the inversion diverged (its cross-entropy or its images are not finite)"


def make_source(members: Zoo | None = None, engine: str = "ei", *, seed: int = 0, **settings: Any) -> ImageSource:
    config = small_config(engine, **{"steps": 3, **settings})
    return ImageSource(config, members or zoo(), PREPROCESSING, patience=2, seed=seed)


def broken(seed: int) -> PretrainedClassifier:
    """A member whose logits are NaN."""
    classifier = member(seed)
    classifier.network.get_classifier().weight.fill_(math.nan)  # type: ignore[operator]
    return classifier


class OtherDifferentiable:
    """A `Differentiable` member that is no `PretrainedClassifier`."""

    def __init__(self, network: PretrainedClassifier) -> None:
        self.labels, self.preprocessing, self.source = network.labels, network.preprocessing, "memory"
        self.size, self.num_batch_norms = network.size, network.num_batch_norms
        self.logits, self.logits_and_statistics = network.logits, network.logits_and_statistics
        self.predict_logits, self.predict_proba = network.predict_logits, network.predict_proba


def same(first: Mapping[int, RecoveredImages], second: Mapping[int, RecoveredImages] | Mapping[int, Tensor]) -> bool:
    """Whether the same members have bitwise equal images."""
    expected = {index: each if isinstance(each, Tensor) else each.images for index, each in second.items()}
    return first.keys() == expected.keys() and all(
        torch.equal(found.images, expected[index]) for index, found in first.items()
    )


def test_sample_members_draws_distinct_members_at_random_by_round_and_seed() -> None:
    members = zoo(5)
    source, repeated, other_seed = make_source(members), make_source(members), make_source(members, seed=1)
    sampled = [source.sample_members(round_index, count=2) for round_index in range(60)]
    assert all(len(set(pair)) == 2 for pair in sampled)
    assert {index for pair in sampled for index in pair} == set(range(5))
    assert sampled == [repeated.sample_members(round_index, count=2) for round_index in range(60)]
    assert sampled != [other_seed.sample_members(round_index, count=2) for round_index in range(60)]
    assert sorted(source.sample_members(0, count=9)) == [0, 1, 2, 3, 4]  # no more than there are


def test_next_members_goes_through_the_zoo_in_passes_of_random_order() -> None:
    members = zoo(6)
    source, repeated = make_source(members), make_source(members)
    # Rounds count from 1. Three rounds of two members are one pass over the six members.
    passes = [[source.next_members(3 * number + part, count=2) for part in (1, 2, 3)] for number in range(8)]
    assert all(sorted(index for pair in pairs for index in pair) == list(range(6)) for pairs in passes)
    assert len({tuple(map(tuple, pairs)) for pairs in passes}) == 8
    assert passes[5][1] == repeated.next_members(3 * 5 + 2, count=2)
    assert sorted(source.next_members(1, count=6)) == list(range(6))

    # 300 rounds of four members are 200 passes. Every third round spans two passes; a member that is in both parts of
    # it is taken once. Hence the counts of the members may differ a little: by at most 10%.
    rounds = [source.next_members(round_index, count=4) for round_index in range(1, 301)]
    assert all(0 < len(chosen) == len(set(chosen)) for chosen in rounds)
    counts = torch.bincount(torch.tensor([index for chosen in rounds for index in chosen]))
    assert counts.max() < 1.1 * counts.min()


def test_next_members_skips_excluded_members_and_is_never_empty() -> None:
    members = zoo(6)
    source = make_source(members)
    source.failures.excluded = {members.name(index): "broken" for index in (0, 1, 2, 3)}
    for round_index in range(1, 10):
        chosen = source.next_members(round_index, count=2)
        assert chosen
        assert set(chosen) <= {4, 5}


@pytest.mark.numeric
def test_images_are_in_the_order_of_labels_with_the_same_number_per_class() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e")), member(2)])
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    source = make_source(members, steps=40, weights=weights)
    found = source.recover([1, 0], per_class=4, round_index=7)
    shapes = {index: tuple(each.images.shape) for index, each in found.items()}
    assert shapes == {1: (8, 3, 16, 16), 0: (12, 3, 16, 16)}
    for index, (images, labels) in found.items():
        assert 0 <= images.min() < images.max() <= 1
        assert torch.equal(labels, source.labels(index, per_class=4, round_index=7))
        assert labels.tolist() == [label for label in range(len(members[index].labels)) for _ in range(4)]
        assert torch.equal(members[index].logits(images).argmax(dim=1), labels)
    assert set(source.last_metrics) == {"inversion_loss", "batch_norm_distance", "disagreement"}
    assert 0.0 < source.last_metrics["inversion_loss"] < 0.5


def test_a_round_takes_at_most_classes_per_round_classes_and_rounds_reach_all() -> None:
    members = Zoo.of([member(0, tuple("abcdefgh")), member(1)])
    config = small_config("ei", steps=3).model_copy(update={"classes_per_round": 3})
    source, repeated = (ImageSource(config, members, PREPROCESSING, patience=2) for _ in range(2))
    labels = [source.labels(0, per_class=2, round_index=round_index) for round_index in range(30)]
    for found in labels:
        classes = found.unique()
        assert len(classes) == 3
        assert torch.equal(found, classes.repeat_interleave(2))
    assert source.most_images(per_class=2) == 6
    assert set(torch.cat(labels).tolist()) == set(range(8))
    for round_index in (7, 3):
        assert torch.equal(repeated.labels(0, per_class=2, round_index=round_index), labels[round_index])
    assert source.labels(1, per_class=2, round_index=7).tolist() == [0, 0, 1, 1, 2, 2]
    target = Target(members.name(0), members[0], labels[7])
    (expected,) = recover(create_engine(config, PREPROCESSING), [target], round_index=7)
    assert torch.equal(source.recover([0], per_class=2, round_index=7)[0].images, expected)


@pytest.mark.parametrize("engine", ["ei", "five"])
def test_a_round_returns_the_images_of_the_engine_in_the_size_of_the_source(engine: str) -> None:
    members = Zoo.of([member(0), member(1), member(2, ("d", "e", "f"), LARGER)])
    expected = recover(
        create_engine(small_config(engine, steps=3), PREPROCESSING),
        [Target(members.name(index), members[index], balanced_labels(3, 2)) for index in (2, 0)],
        round_index=5,
    )
    found = make_source(members, engine).recover([2, 0], per_class=2, round_index=5)
    assert same(found, {index: resize_and_crop(images, 16) for index, images in zip((2, 0), expected, strict=True)})
    assert not same(found, make_source(members, engine).recover([2, 0], per_class=2, round_index=6))
    assert not same(found, make_source(members, engine, seed=1).recover([2, 0], per_class=2, round_index=5))


def test_a_failing_member_is_excluded_with_one_message_and_not_sampled_again() -> None:
    members = Zoo.of([member(0), broken(1), member(2)])
    source = make_source(members)
    found = source.recover([0, 1, 2], per_class=2, round_index=1)
    assert same(found, make_source(members).recover([0, 2], per_class=2, round_index=1))
    assert math.isfinite(source.last_metrics["inversion_loss"])
    assert source.pop_messages() == [f"member-001 is excluded: {DIVERGED}"]
    assert source.pop_messages() == []
    assert all(sorted(source.sample_members(round_index, count=3)) == [0, 2] for round_index in range(5))


def test_without_any_usable_member_the_run_ends_with_a_reason() -> None:
    source = make_source(Zoo.of([broken(0), broken(1)]))
    with pytest.raises(
        RunError,
        match=r"no member is left to learn from: of 2, member-00\d was excluded first: the inversion diverged",
    ):
        source.recover([0, 1], per_class=2, round_index=1)


@pytest.mark.parametrize("engine", ["ei", "cmi", "five", "fast_dfkd"])
def test_a_differentiable_member_of_another_type_is_excluded_with_a_message(engine: str) -> None:
    other = OtherDifferentiable(member(1))
    assert isinstance(other, Differentiable)
    members = Zoo.of([member(0), other])
    source = make_source(members, engine)
    reason = f"its type is OtherDifferentiable, and the engine {engine} needs PretrainedClassifier"
    assert source.pop_messages() == [f"member-001 is not inverted: {reason}"]
    assert source.sample_members(0, count=2) == [0]


def test_inverting_a_differentiable_member_of_another_type_is_refused() -> None:
    members = Zoo.of([member(0), OtherDifferentiable(member(1))])
    with pytest.raises(
        UsageError, match="member-001 cannot be inverted: its type is OtherDifferentiable, and the engine"
    ):
        dfml.invert(members, engine="ei", members=[1], per_class=1)


def test_a_student_that_is_not_finite_excludes_no_member() -> None:
    def student(images: Tensor, rows: Tensor | None) -> Tensor:
        return torch.full((len(images), 3), math.nan)

    learner_weights = [torch.zeros(2), torch.tensor([1.0, math.nan])]
    source = make_source(weights=InversionWeights(disagreement=1.0, divergence="js"))
    with pytest.raises(RunError, match="the inversion engine or the learner itself is not finite"):
        source.recover([0, 1], per_class=2, round_index=1, student=student, learner_weights=learner_weights)
    # The weights are only looked at after a failure.
    found = make_source().recover([0, 1], per_class=2, round_index=1, learner_weights=learner_weights)
    assert found.keys() == {0, 1}


def test_the_student_predicts_with_each_member_s_own_rows() -> None:
    rows, used_rows = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6, 7, 0])], []
    weights = InversionWeights(disagreement=1.0, divergence="js")
    source = ImageSource(small_config("ei", steps=1, weights=weights), zoo(), PREPROCESSING, patience=2, rows=rows)

    def student(images: Tensor, member_rows: Tensor | None) -> Tensor:
        assert member_rows is not None
        used_rows.append(member_rows.tolist())
        return CoarseStudent()(images, member_rows)

    source.recover([2, 0], per_class=2, round_index=1, student=student)
    assert used_rows == [[6, 7, 0], [0, 1, 2]]
    assert source.last_metrics["disagreement"] > 0


def test_zero_steps_return_the_initial_images_and_no_metrics() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER)])
    settings: dict[str, Any] = {"steps": 0, "start": "dead_leaves"}
    source = make_source(members, **settings)
    found = source.recover([0, 1], per_class=2, round_index=1)
    targets = [
        Target(members.name(index), members[index], balanced_labels(outputs, 2)) for index, outputs in ((0, 3), (1, 2))
    ]
    initial = create_engine(small_config("ei", **settings), PREPROCESSING).start(targets, round_index=1).images()
    assert same(found, {index: resize_and_crop(images, 16) for index, images in enumerate(initial)})
    assert {index: len(each.images) for index, each in found.items()} == {0: 6, 1: 4}
    assert source.last_metrics == {}
    assert not same(found, source.recover([0, 1], per_class=2, round_index=2))


@pytest.mark.parametrize("engine", ["ei", "five"])
def test_a_restored_state_continues_with_the_same_images_and_exclusions(engine: str) -> None:
    members = Zoo.of([member(0), broken(1), member(2)])
    # With momentum, the images of a round depend on the batch-norm statistics of earlier rounds; without it, `ei` would
    # carry nothing from round to round, and a state that is not restored would go unnoticed.
    weights = InversionWeights(batch_norm=0.1, momentum=0.5)
    uninterrupted, resumed = (make_source(members, engine, weights=weights) for _ in range(2))
    uninterrupted.recover([0, 1, 2], per_class=2, round_index=1)
    tensors, values = uninterrupted.state_dict()
    resumed.load_state_dict(
        {name: value.detach().clone() for name, value in tensors.items()}, json.loads(json.dumps(values))
    )
    assert uninterrupted.sample_members(2, count=3) == resumed.sample_members(2, count=3)
    expected = uninterrupted.recover([0, 2], per_class=2, round_index=2)
    assert same(expected, resumed.recover([0, 2], per_class=2, round_index=2))
    assert uninterrupted.last_metrics == resumed.last_metrics
    without_state = make_source(members, engine, weights=weights)
    assert not same(expected, without_state.recover([0, 2], per_class=2, round_index=2))


def test_a_state_of_another_engine_is_refused() -> None:
    tensors, values = make_source(engine="five").state_dict()
    with pytest.raises(RunError, match="of a run with the engine five, not ei; use the same one"):
        make_source(engine="ei").load_state_dict(tensors, values)
