from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.factories import images

from .reference import query_loss_and_gradient
from .small import gradient_learner, noise_episode, outcome_and_gradient


@pytest.mark.parametrize(("second_order", "steps"), list(product((True, False), (1, 3))))
def test_loss_and_gradient_equal_those_of_the_plain_reference(second_order: bool, steps: int) -> None:
    settings = {"kind": "anil", "second_order": second_order, "inner_steps": steps, "inner_lr": 0.05}
    learner, episode = gradient_learner("paper", torch.float64, **settings), noise_episode(torch.float64)
    outcome, gradient = outcome_and_gradient(learner, episode)
    loss, expected = query_loss_and_gradient(learner, episode, adapted=("head.",))
    torch.testing.assert_close(outcome.loss, loss)
    for name, value in expected.items():
        torch.testing.assert_close(gradient[name], value, atol=1e-9, rtol=1e-6, msg=name)


def test_with_another_way_every_class_starts_from_the_mean_row() -> None:
    learner = gradient_learner(kind="anil", test_inner_steps=1, inner_lr=1e-9)
    classifier = learner.adapt(images(5), torch.arange(5))
    rows = classifier.parameters["head.weight"]  # type: ignore[attr-defined]
    torch.testing.assert_close(rows, learner.parameters["head.weight"].mean(dim=0).expand(5, -1))


def test_from_a_zero_head_one_step_already_separates_classes() -> None:
    episode = noise_episode()
    learner = gradient_learner("strict", kind="anil", head_start="zero", test_inner_steps=1)
    assert torch.all(learner.parameters["head.weight"] == 0)
    classifier = learner.adapt(episode.support_images, episode.support_labels)
    assert classifier.parameters["head.weight"].abs().sum() > 0  # type: ignore[attr-defined]
