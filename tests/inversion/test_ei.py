from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfml import seeds
from dfml.backbones import create_backbone
from dfml.drawn_images import coloured_noise, dark_strokes, dead_leaves, pen_strokes
from dfml.inversion.ei import (
    InitialPixels,
    PixelInversion,
    PixelInversionConfig,
    invert_classifier,
    matched_initialisations,
)
from dfml.inversion.engine import Target, recover
from dfml.inversion.fidelity import FidelityMeter, measure
from dfml.inversion.loss import InversionWeights
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, images, member

# With 100 steps every image of ten members is classified as its label; after 60 steps, one in twenty was not.
PLAIN: dict[str, Any] = {"start": "noise", "search_steps": 0, "lr": 0.1, "clip": False}
QUICK = PixelInversionConfig(steps=100, weights=InversionWeights(batch_norm=0.1), **PLAIN)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.numeric
def test_recovered_images_are_classified_as_their_label_and_near_the_running_statistics() -> None:
    classifier = member(0)
    inversion = PixelInversion(QUICK).start([Target("member", classifier, LABELS)])
    (first,) = inversion.step()
    for _ in range(QUICK.steps - 1):
        (last,) = inversion.step()
    (recovered,) = inversion.images()
    assert torch.equal(classifier.logits(recovered).argmax(dim=1), LABELS)
    assert last.batch_norm < 0.6 * first.batch_norm  # at most 0.4 over seeds
    assert last.label < 0.1 * first.label  # at most 0.01 over seeds


def test_it_is_repeatable_and_initial_pixels_do_not_depend_on_the_number_of_images() -> None:
    classifier = member(0)
    assert torch.equal(
        *(
            invert_classifier(classifier, LABELS, PixelInversionConfig(steps=3, search_steps=2), seed=5)
            for _ in range(2)
        )
    )
    engine = PixelInversion(QUICK, seed=5)
    (few,), (many,) = (engine.start([Target("m", classifier, labels)]).images() for labels in (LABELS[:2], LABELS))
    assert torch.equal(few, many[:2])


def initial_pixels(start: str, *, seed: int = 0, round_index: int = 0, name: str = "m") -> Tensor:
    """Images before the first step."""
    config = PixelInversionConfig(steps=0, start=start)
    (found,) = recover(PixelInversion(config, seed), [Target(name, member(0), LABELS)], round_index)
    return found


@pytest.mark.parametrize("start", ["noise", "dead_leaves"])
def test_initial_pixels_differ_between_seeds_rounds_and_members(start: str) -> None:
    found = initial_pixels(start)
    assert found.shape == (6, 3, 16, 16)
    assert 0 <= found.min() < found.max() <= 1
    assert torch.pdist(found.flatten(1)).min() > 1
    assert torch.equal(found, initial_pixels(start))
    for other in (initial_pixels(start, seed=1), initial_pixels(start, round_index=1), initial_pixels(start, name="n")):
        assert not torch.allclose(found, other)


def test_dead_leaves_are_smoother_than_noise_and_denormalised_as_the_member_requires() -> None:
    smooth, rough = (initial_pixels(start).diff(dim=-1).abs().mean() for start in ("dead_leaves", "noise"))
    assert smooth < 0.6 * rough
    expected = dead_leaves(6, 16, seeds.generator(0, "leaves", 0, "m"))
    torch.testing.assert_close(initial_pixels("dead_leaves"), PREPROCESSING.denormalise(expected).clamp(0, 1))


@pytest.mark.numeric
def test_inversion_starts_from_dead_leaves_and_lowers_the_cross_entropy() -> None:
    classifier = member(0)
    recovered = invert_classifier(classifier, LABELS, QUICK.model_copy(update={"start": "dead_leaves"}))
    tiny_step = PixelInversionConfig(**{**PLAIN, "start": "dead_leaves", "lr": 1e-6}, steps=1)
    initial = invert_classifier(classifier, LABELS, tiny_step)
    torch.testing.assert_close(initial, initial_pixels("dead_leaves", name="member"), atol=1e-4, rtol=0)
    before, after = (nn.functional.cross_entropy(classifier.logits(each), LABELS) for each in (initial, recovered))
    assert after < 0.3 * before  # at most 0.1 over seeds


def member_with_statistics_of(make: InitialPixels, space: Preprocessing = PREPROCESSING) -> PretrainedClassifier:
    """A member with random weights and the batch-norm statistics of images from `make`."""
    network = create_backbone("conv4", 3, seed=1, img_size=space.size)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain average
    shown = space.denormalise(make(64, space.size, seeds.generator(8, "shown"))).clamp(0, 1)
    with torch.no_grad():
        network.train()(space.normalise(shown))
    return PretrainedClassifier(network, ("a", "b", "c"), space)


DARK = Preprocessing(16, (0.1, 0.1, 0.1), (0.25, 0.25, 0.25))
BRIGHT = Preprocessing(16, (0.9, 0.9, 0.9), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("kinds", "space"),
    [
        ((dead_leaves,), PREPROCESSING),
        ((dead_leaves,), DARK),
        ((dead_leaves, pen_strokes), DARK),
        ((dead_leaves, dark_strokes), BRIGHT),
    ],
)
@pytest.mark.numeric
def test_initialisations_are_matched_by_batch_norm_statistics(
    kinds: tuple[InitialPixels, ...], space: Preprocessing
) -> None:
    classifier = member_with_statistics_of(kinds[-1], space)
    assert all(matched_initialisations(classifier, seed) == kinds for seed in (0, 1, 2))
    engine = PixelInversion(PixelInversionConfig(steps=0, start="auto"))
    for round_index in (3, 2):
        (found,) = recover(engine, [Target("m", classifier, LABELS)], round_index)
        for place, (make, purpose) in enumerate(zip(kinds, ("leaves", "strokes"), strict=False)):
            first = make(6 // len(kinds), 16, seeds.generator(0, purpose, round_index, "m"))
            own = found[(place + round_index) % len(kinds) :: len(kinds)]
            torch.testing.assert_close(own, space.denormalise(first).clamp(0, 1))


def test_one_image_per_class_alternates_between_initialisations_over_rounds() -> None:
    engine = PixelInversion(PixelInversionConfig(steps=0, start="auto"))
    target = Target("m", member_with_statistics_of(pen_strokes, DARK), torch.tensor([0]))
    (first,), (second,), (third,) = (recover(engine, [target], round_index) for round_index in (0, 1, 2))
    leaves, strokes = (
        DARK.denormalise(make(1, 16, seeds.generator(0, purpose, round_index, "m"))).clamp(0, 1)
        for make, purpose, round_index in ((dead_leaves, "leaves", 0), (pen_strokes, "strokes", 1))
    )
    torch.testing.assert_close(first, leaves)
    torch.testing.assert_close(second, strokes)
    assert not torch.equal(third, first)


@pytest.mark.numeric
def test_only_dead_leaves_are_matched_where_strokes_are_not_nearer() -> None:
    assert matched_initialisations(member_with_statistics_of(coloured_noise)) == (dead_leaves,)
    without_batch_norm = PretrainedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), ("a", "b", "c"), DARK)
    assert matched_initialisations(without_batch_norm) == (dead_leaves,)
    broken = member_with_statistics_of(pen_strokes, DARK)
    for name, value in broken.network.named_buffers():
        if name.endswith("running_mean"):
            value.fill_(torch.nan)
    assert matched_initialisations(broken) == (dead_leaves,)


@pytest.mark.numeric
def test_images_that_only_their_own_member_recognises_get_a_warning() -> None:
    zoo = Zoo.of([member(seed, ("ant", "bee", "cat")) for seed in range(8)])
    fidelity = measure(zoo, 0, invert_classifier(zoo[0], LABELS, QUICK), LABELS)
    assert fidelity.agreement > 0.8
    assert fidelity.chance == pytest.approx(1 / 3)
    assert fidelity.other_agreement is not None
    assert fidelity.other_agreement < 0.6  # chance is a third; at most 0.4 over seeds
    assert fidelity.warning is not None
    assert "only this member accepts" in fidelity.warning


@pytest.mark.numeric
def test_images_that_other_members_recognise_get_no_warning() -> None:
    zoo = Zoo.of([member(0, ("ant", "bee", "cat")), member(0, ("ant", "bee", "cat")), member(3, ("x", "y", "z"))])
    fidelity = measure(zoo, 0, invert_classifier(zoo[0], LABELS, QUICK), LABELS)
    assert fidelity.other_agreement == fidelity.agreement > 0.8  # the second member equals the first
    assert fidelity.warning is None


@pytest.mark.numeric
def test_without_another_member_the_warning_depends_on_batch_norm_statistics() -> None:
    zoo = Zoo.of([member(0)])
    good = measure(zoo, 0, invert_classifier(zoo[0], LABELS, QUICK), LABELS)
    assert good.other_agreement is None
    assert good.warning is None
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    without_statistics = invert_classifier(zoo[0], LABELS, PixelInversionConfig(steps=60, weights=weights, **PLAIN))
    found = measure(zoo, 0, without_statistics, LABELS)
    assert found.agreement > 0.8
    assert found.warning is not None
    assert "batch-norm" in found.warning


def test_images_that_their_own_member_does_not_recognise_get_a_warning() -> None:
    zoo = Zoo.of([member(0), member(1)])
    wrong = (zoo[0].logits(images(6)).argmax(dim=1) + 1) % 3
    warning = measure(zoo, 0, images(6), wrong).warning
    assert warning is not None
    assert "recognises only 0%" in warning


@pytest.mark.numeric
def test_fidelity_can_be_measured_in_parts() -> None:
    zoo = Zoo.of([member(0, ("a", "b", "c")), member(1, ("a", "b", "c")), member(2, ("c", "d", "e"))])
    found, meter = invert_classifier(zoo[0], LABELS, QUICK), FidelityMeter(zoo, 0)
    whole = measure(zoo, 0, found, LABELS)
    for part in (slice(0, 1), slice(1, 6)):
        meter.add(found[part], LABELS[part])
    parts = meter.read()
    assert (parts.agreement, parts.other_agreement) == (whole.agreement, whole.other_agreement)
    assert parts.chance == pytest.approx(whole.chance)
    one, five = (measure(zoo, 0, found[part], LABELS[part]) for part in (slice(0, 1), slice(1, 6)))
    assert parts.batch_norm_distance == pytest.approx((one.batch_norm_distance + 5 * five.batch_norm_distance) / 6)
    with pytest.raises(ValueError, match="found none"):
        FidelityMeter(zoo, 0).read()
