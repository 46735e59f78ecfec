from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dfml.learners import LearnerConfig, create_learner
from tests.factories import PREPROCESSING

from .reference import strict_logits
from .small import KINDS, gradient_learner, noise_episode, outcome_and_gradient


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.numeric
def test_strict_rule_equals_the_plain_reference(steps: int) -> None:
    learner = gradient_learner("strict", torch.float64, inner_steps=steps, test_inner_steps=steps, inner_lr=0.05)
    episode = noise_episode(torch.float64)
    expected = strict_logits(learner, episode).detach()
    classifier = learner.adapt(episode.support_images, episode.support_labels)
    torch.testing.assert_close(classifier.predict_proba(episode.query_images), expected.softmax(dim=1))
    outcome, _ = outcome_and_gradient(learner, episode)
    torch.testing.assert_close(outcome.loss.detach(), functional.cross_entropy(expected, episode.query_labels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.numeric
def test_strict_predictions_do_not_depend_on_the_batch_and_paper_predictions_do(kind: str) -> None:
    episode = noise_episode()
    for protocol, depends in (("strict", False), ("paper", True)):
        classifier = gradient_learner(protocol, kind=kind).adapt(episode.support_images, episode.support_labels)
        together = classifier.predict_proba(episode.query_images)
        alone = torch.cat([classifier.predict_proba(image[None]) for image in episode.query_images])
        assert torch.allclose(together, alone, atol=1e-5) is not depends


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_support_and_query_images(kind: str) -> None:
    episode = noise_episode()
    episode.support_images.requires_grad_()
    episode.query_images.requires_grad_()
    learner = gradient_learner(kind=kind, second_order=False)
    parameters = {name: value.requires_grad_() for name, value in learner.parameters.items()}
    outcome = learner.episode_loss(parameters, learner.running_statistics, episode, second_order=True)
    for gradient in torch.autograd.grad(outcome.loss, [episode.support_images, episode.query_images]):
        assert torch.all(gradient.abs().sum(dim=(1, 2, 3)) > 0)


@pytest.mark.parametrize(
    ("protocol", "setting", "steps"), [("paper", None, 2), ("strict", None, 10), ("paper", 3, 3), ("strict", 3, 3)]
)
def test_number_of_inner_steps_depends_on_the_protocol_unless_it_is_set(
    protocol: str, setting: int | None, steps: int
) -> None:
    episode = noise_episode()
    learner = gradient_learner(protocol, inner_steps=2, test_inner_steps=setting, inner_lr=0.05)
    expected = gradient_learner(protocol, inner_steps=2, test_inner_steps=steps, inner_lr=0.05)
    support = episode.support_images, episode.support_labels
    predictions = [each.adapt(*support).predict_proba(episode.query_images) for each in (learner, expected)]
    assert torch.equal(*predictions)
    assert learner.test_inner_steps == steps


def test_adapting_does_not_change_the_learner() -> None:
    learner, episode = gradient_learner(inner_steps=2), noise_episode()
    before = {name: value.clone() for name, value in learner.parameters.items()}
    first = learner.adapt(episode.support_images, episode.support_labels).predict_proba(episode.query_images)
    second = learner.adapt(episode.support_images, episode.support_labels).predict_proba(episode.query_images)
    assert torch.equal(first, second)
    assert all(torch.equal(value, learner.parameters[name]) for name, value in before.items())


@pytest.mark.numeric
def test_shrinkage_interpolates_support_and_stored_statistics() -> None:
    episode = noise_episode()
    for shrinkage in (0.0, 0.25, 1.0):
        learner = gradient_learner(statistics_shrinkage=shrinkage, test_inner_steps=1)
        learner.running_statistics = {
            name: torch.full_like(value, 2.0) for name, value in learner.running_statistics.items()
        }
        inputs = learner.preprocessing.normalise(episode.support_images)
        _, support = learner.network.features(learner.parameters, inputs)
        classifier = learner.adapt(episode.support_images, episode.support_labels)
        for name, value in support.items():
            expected = (1 - shrinkage) * value + shrinkage * 2.0
            torch.testing.assert_close(classifier.statistics[name], expected)  # type: ignore[attr-defined]


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = create_learner(LearnerConfig(), PREPROCESSING, seed=7).parameters
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = create_learner(LearnerConfig(), PREPROCESSING, seed=7).parameters
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = create_learner(LearnerConfig(), PREPROCESSING, seed=8).parameters
    assert not torch.equal(first["backbone.blocks.0.conv.weight"], other["backbone.blocks.0.conv.weight"])
