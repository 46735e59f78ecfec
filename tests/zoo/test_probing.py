"""Probe images show constant predictions and another normalisation; good members of any architecture pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.probing import predictions_are_constant, probe_images, probe_warnings
from tests.factories import PREPROCESSING, member


def test_probe_images_are_fixed_and_reach_black_white_and_all_colours() -> None:
    images = probe_images(16)
    assert images.shape == (32, 3, 16, 16)
    assert torch.equal(images, probe_images(16))
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert len({tuple(corner) for corner in images[:8, :, 0, 0].tolist()}) == 8


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [("conv4", None), ("fewshot_resnet10", {}), ("vit_tiny_patch16_224", {"img_size": 32})],
)
def test_a_good_member_of_any_architecture_has_no_warning(architecture: str, arguments: dict[str, int] | None) -> None:
    classifier = member(
        0, preprocessing=replace(PREPROCESSING, size=32), architecture=architecture, arguments=arguments
    )
    assert probe_warnings(classifier) == []


def test_a_member_that_is_hardly_sure_of_anything_does_not_count_as_constant() -> None:
    classifier = member(0)
    head = classifier.network.get_classifier()  # type: ignore[operator]
    logits = classifier.logits(probe_images(classifier.size))
    head.weight.mul_(0.1 / float(logits.log_softmax(1).std(0).max()))  # the odds differ by 10% between images
    assert probe_warnings(classifier) == []
    head.weight.mul_(0.01)
    (line,) = probe_warnings(classifier)
    assert "are the same for 32" in line


def test_one_output_or_one_image_is_never_constant() -> None:
    assert not predictions_are_constant(torch.zeros(5, 1))
    assert not predictions_are_constant(torch.zeros(1, 5))
    assert predictions_are_constant(torch.zeros(5, 2))
    assert not predictions_are_constant(torch.full((5, 2), torch.nan))


@pytest.mark.parametrize("std", [(1 / 255,) * 3, (1.0,) * 3])
def test_another_normalisation_than_the_trained_one_is_named(std: tuple[float, float, float]) -> None:
    trained = member(0)
    stated = replace(PREPROCESSING, mean=(0.0, 0.0, 0.0), std=std)
    (line,) = probe_warnings(PretrainedClassifier(trained.network, trained.labels, stated))
    assert "check that it was trained with its mean (0.0, 0.0, 0.0)" in line


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_training_images_of_another_contrast_are_not_another_normalisation(factor: float) -> None:
    """Running variances of images of 0.3 times the contrast, as of X-rays, and of twice as much."""
    classifier = member(0)
    first = next(layer for layer in classifier.network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert isinstance(first.running_var, torch.Tensor)
    first.running_var.mul_(factor**2)
    assert probe_warnings(classifier) == []
