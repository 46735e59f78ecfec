"""A classifier is trained by its recipe on the first 80% of each class, with its own random draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dfml.backbones import create_backbone
from dfml.data.dataset import ImageDataset
from dfml.errors import DataError, RunError
from dfml.pretraining import PAPER, STRONG, Optimisation, Recipe, TrainedClassifier, train_classifier
from dfml.pretraining.classifier_training import augment, split_images
from dfml.pretraining.normalisation import pixel_statistics
from dfml.zoo import Preprocessing, PretrainedClassifier

from .images import patterns

PREPROCESSING = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
ONE = PAPER.override(epochs=1, batch_size=20)


def train(
    dataset: ImageDataset | None = None, recipe: Recipe = ONE, architecture: str = "conv4", **settings: Any
) -> TrainedClassifier:
    settings.setdefault("arguments", {"img_size": 16} if architecture in ("conv4", "test_vit") else {})
    return train_classifier(dataset or patterns(), architecture, recipe, preprocessing=PREPROCESSING, **settings)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("recipe", [PAPER, STRONG])
@pytest.mark.parametrize("architecture", ["conv4", "test_resnet", "test_vit"])
@pytest.mark.numeric
def test_it_learns_and_reports_the_accuracy_of_its_network(recipe: Recipe, architecture: str) -> None:
    dataset = patterns()
    trained = train(dataset, recipe.override(epochs=8, batch_size=20, crop_padding=0, flip=False), architecture)
    assert trained.held_out_accuracy > 0.8
    classifier = PretrainedClassifier(trained.network, dataset.classes, PREPROCESSING)
    _, held_out = split_images(dataset)
    predicted = classifier.logits(dataset.images[held_out].float() / 255).argmax(1)
    assert float((predicted == dataset.labels[held_out]).double().mean()) == trained.held_out_accuracy


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4))
def test_the_last_fifth_of_each_class_is_held_out(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    dataset = replace(
        patterns(per_class=1, size=1),
        images=torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8),
        labels=labels,
        classes=tuple(f"c{index}" for index in range(len(counts))),
    )
    fit, held_out = split_images(dataset)
    assert sorted([*fit.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        fitted, rest = fit[labels[fit] == label], held_out[labels[held_out] == label]
        assert len(fitted) == count * 4 // 5 >= 1
        assert len(rest) >= 1
        assert int(fitted.max()) < int(rest.min())


def test_held_out_images_do_not_influence_the_weights() -> None:
    dataset = patterns()
    _, held_out = split_images(dataset)
    images = dataset.images.clone()
    images[held_out] = 255 - images[held_out]
    assert same(train(dataset).network, train(replace(dataset, images=images)).network)
    images[0] = 255 - images[0]
    assert not same(train(dataset).network, train(replace(dataset, images=images)).network)


def test_seed_and_member_decide_every_bit() -> None:
    recipe = STRONG.override(epochs=2, batch_size=20)
    first = train(recipe=recipe, seed=1, member=2).network
    assert same(first, train(recipe=recipe, seed=1, member=2).network)
    assert not same(first, train(recipe=recipe, seed=1, member=3).network)
    assert not same(first, train(recipe=recipe, seed=2, member=2).network)


def test_random_layers_leave_torchs_generator_and_threads_as_they_were() -> None:
    arguments = {"img_size": 16, "drop_rate": 0.5}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = train(architecture="test_vit", arguments=arguments).network
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    torch.set_num_threads(2)
    second = train(architecture="test_vit", arguments=arguments).network
    assert torch.get_num_threads() == 2
    assert same(first, second)


def test_the_returned_network_is_ready_for_use() -> None:
    network = train().network
    assert not any(module.training for module in network.modules())
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 4  # 80 images, 20 a batch


def test_the_error_of_a_diverged_training_names_the_member() -> None:
    recipe = ONE.override(epochs=3, gradient_clip=1e30, conv4={"optimiser": "sgd", "learning_rate": 1e30})
    with pytest.raises(RunError, match=r"member 7 diverged.*in epoch 1 of 3.*1e\+30"):
        train(recipe=recipe, member=7)


@pytest.mark.parametrize("clip", [1e-3, 1e-2])
@pytest.mark.numeric
def test_the_gradient_is_clipped(clip: float) -> None:
    recipe = PAPER.override(epochs=1, conv4=Optimisation(optimiser="sgd", learning_rate=0.5, momentum=0))
    still = train(recipe=recipe.override(gradient_clip=1e-30)).network
    moved = train(recipe=recipe.override(gradient_clip=clip)).network
    steps = [(a - b).detach().flatten() for a, b in zip(moved.parameters(), still.parameters(), strict=True)]
    assert float(torch.cat(steps).norm()) == pytest.approx(0.5 * clip, rel=1e-3)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 'ant' has 1 image, expected at least 2"):
        train(patterns(per_class=1))


@pytest.mark.parametrize("batch_size", [4, 8, 128])
def test_no_batch_is_a_single_image(batch_size: int) -> None:
    dataset = patterns(("a", "b", "c"), per_class=4, size=32)
    assert len(split_images(dataset)[0]) % 4 == 1
    network = create_backbone("test_resnet", 3).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.rand(1, 3, 32, 32))
    recipe = PAPER.override(epochs=1, batch_size=batch_size)
    preprocessing = replace(PREPROCESSING, size=32)
    train_classifier(dataset, "test_resnet", recipe, preprocessing=preprocessing)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_augmentation_is_a_crop_of_the_padded_image_or_its_mirror(
    count: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8)
    found = augment(images, padding, flip, torch.Generator().manual_seed(seed))
    assert found.shape == images.shape
    padded = functional.pad(images, [padding] * 4)
    for image, result in zip(padded, found, strict=True):
        crops = [
            image[:, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        allowed = crops + [crop.flip(2) for crop in crops] if flip else crops
        assert any(torch.equal(result, crop) for crop in allowed)
    assert torch.equal(found, augment(images, padding, flip, torch.Generator().manual_seed(seed)))


def test_augmentation_uses_every_place_and_both_sides_about_equally() -> None:
    count, padding = 9000, 1
    images = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(count, 3, 3, 3)
    found = augment(images, padding, True, torch.Generator().manual_seed(0))
    _, uses = torch.unique(found, dim=0, return_counts=True)
    assert len(uses) == 9 * 2
    assert int(uses.min()) > 0.8 * count / 18


def test_pixel_statistics_are_those_of_all_pixels() -> None:
    dataset = patterns(per_class=50)
    found = pixel_statistics(dataset)
    pixels = dataset.images.double() / 255
    assert found.size == 16
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_images_of_one_brightness_can_be_normalised() -> None:
    dataset = patterns()
    found = pixel_statistics(replace(dataset, images=torch.full_like(dataset.images, 128)))
    assert all(value > 0 for value in found.std)
