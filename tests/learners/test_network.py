from __future__ import annotations

import pytest
import torch

from dfml.errors import UsageError
from dfml.learners import LearnerConfig, create_learner
from dfml.methods.base import Method
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from tests.factories import PREPROCESSING, images, zoo

from .small import WAY, noise_episode, outcome_and_gradient


def test_any_timm_network_can_be_a_backbone() -> None:
    learner = create_learner(LearnerConfig(backbone="test_resnet"), PREPROCESSING, way=WAY, protocol="strict")
    episode = noise_episode()
    outcome, gradient = outcome_and_gradient(learner, episode)
    assert torch.isfinite(outcome.loss)
    assert sum(value.abs().sum() for name, value in gradient.items() if name.startswith("backbone.")) > 0
    classifier = learner.adapt(episode.support_images, episode.support_labels)
    assert len(classifier.predict(episode.query_images)) == 9


@pytest.mark.parametrize("method", [PURER, ZooStudent])
def test_a_backbone_of_fixed_input_size_is_built_for_the_size_of_the_images(method: type[Method]) -> None:
    section = {"purer": "learner", "zoo_student": None}[method.name]
    settings = {"backbone": "vit_tiny_patch16_224"}
    run = method(way=2, iterations=1, **({section: settings} if section else settings)).start(
        zoo(2), torch.device("cpu")
    )
    support = images(4), torch.tensor([0, 0, 1, 1])
    assert run.learner().adapt(*support).predict_proba(images(3)).shape == (3, 2)
    run.step(1)  # PURER's outer loss is differentiated twice


@pytest.mark.parametrize("method", [PURER, ZooStudent])
def test_a_backbone_that_cannot_take_the_images_is_refused_before_anything_is_computed(method: type[Method]) -> None:
    section = {"purer": "learner", "zoo_student": None}[method.name]
    settings = {"backbone": "convnext_atto"}
    with pytest.raises(UsageError, match="'convnext_atto' cannot learn from images of 16 x 16 pixels"):
        method(way=2, **({section: settings} if section else settings)).start(zoo(2), torch.device("cpu"))
