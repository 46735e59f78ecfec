"""`InversionConfig.fallback`: members that do not recognise their first images are inverted by other settings.

The members have three classes and images of 16 x 16 pixels. One of them predicts its first class for every image, so
that it recognises a third of its images, whatever the engine.
"""

from __future__ import annotations

import json

import pytest
import torch

from dfml.inversion.ei import PixelInversion, PixelInversionConfig
from dfml.inversion.engine import Target, balanced_labels, recover
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig
from dfml.zoo import PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member
from tests.inversion.small import small_config

FALLBACK = PixelInversionConfig(start="noise", steps=2, search_steps=0)


def first_class_only(seed: int) -> PretrainedClassifier:
    classifier = member(seed)
    head = classifier.network.get_classifier()  # type: ignore[operator]
    head.bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    return classifier


def members() -> Zoo:
    return Zoo.of([member(0), first_class_only(1), member(2)])


def config(fallback: PixelInversionConfig | None = FALLBACK) -> InversionConfig:
    # Enough steps on the labels alone for a member to recognise its images.
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    return small_config("ei", steps=40, weights=weights).model_copy(update={"fallback": fallback})


def make_source(settings: InversionConfig) -> ImageSource:
    return ImageSource(settings, members(), PREPROCESSING, patience=9)


def by_fallback(round_index: int) -> torch.Tensor:
    target = Target("member-001", first_class_only(1), balanced_labels(3, 4))
    (images,) = recover(PixelInversion(FALLBACK), [target], round_index)
    return images


@pytest.mark.numeric
def test_only_the_member_that_does_not_recognise_its_images_has_those_of_the_fallback() -> None:
    source, without = make_source(config()), make_source(config(None))
    found, plain = (each.recover([2, 1, 0], per_class=4, round_index=1) for each in (source, without))
    assert list(found) == list(plain) == [2, 1, 0]
    for index in (0, 2):
        assert torch.equal(found[index].images, plain[index].images)
    assert torch.equal(found[1].images, by_fallback(1))
    assert not torch.equal(found[1].images, plain[1].images)
    assert source.pop_messages() == [
        "member-001 recognises 4 of the first 12 images recovered from it; its images are recovered by the settings "
        "inversion.fallback from now on"
    ]
    assert without.pop_messages() == []


@pytest.mark.numeric
def test_later_rounds_and_a_restored_source_keep_the_decision() -> None:
    source = make_source(config())
    source.recover([0, 1], per_class=4, round_index=1)
    source.pop_messages()
    tensors, values = source.state_dict()
    restored = make_source(config())
    restored.load_state_dict(tensors, json.loads(json.dumps(values)))
    for each in (source, restored):
        found = each.recover([1], per_class=4, round_index=2)
        assert torch.equal(found[1].images, by_fallback(2))
        assert each.pop_messages() == []
        assert each.engine.steps == 40


def test_the_statistics_of_the_fallback_are_restored() -> None:
    momentum = FALLBACK.model_copy(update={"weights": InversionWeights(batch_norm=0.1, momentum=0.5)})
    settings = small_config("ei", steps=1).model_copy(update={"fallback": momentum})
    source, restored, without = (make_source(settings) for _ in range(3))
    source.recover([1], per_class=4, round_index=1)
    tensors, values = source.state_dict()
    assert any(name.startswith("fallback.") for name in tensors)
    restored.load_state_dict({name: value.clone() for name, value in tensors.items()}, values)
    without.load_state_dict({}, values)
    expected = source.recover([1], per_class=4, round_index=2)[1].images
    assert torch.equal(restored.recover([1], per_class=4, round_index=2)[1].images, expected)
    assert not torch.equal(without.recover([1], per_class=4, round_index=2)[1].images, expected)


def test_a_member_is_looked_at_in_its_first_round_only() -> None:
    source = make_source(config().model_copy(update={"ei": FALLBACK.model_copy(update={"steps": 0})}))
    state = {"member-001": False}
    source.load_state_dict({}, {**source.state_dict()[1], "fallback": state})
    source.recover([1], per_class=4, round_index=2)
    assert source.state_dict()[1]["fallback"] == state
    assert source.pop_messages() == []


def test_a_failed_inversion_of_the_first_engine_is_no_reason_to_exclude_a_member_that_the_fallback_can_invert() -> None:
    diverging = FALLBACK.model_copy(update={"lr": 1e30, "clip": False})
    settings = small_config("ei").model_copy(update={"ei": diverging, "fallback": FALLBACK})
    source, without = make_source(settings), make_source(settings.model_copy(update={"fallback": None}))
    found = source.recover([1], per_class=4, round_index=1)
    assert torch.equal(found[1].images, by_fallback(1))
    assert not source.failures.excluded
    assert without.recover([1], per_class=4, round_index=1) == {}
    assert set(without.failures.excluded) == {"member-001"}
