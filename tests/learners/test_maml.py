from __future__ import annotations

from itertools import product

import pytest
import torch

from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner

from .reference import query_loss_and_gradient
from .small import gradient_learner, noise_episode, outcome_and_gradient


@pytest.mark.parametrize(("second_order", "steps"), list(product((True, False), (1, 3))))
@pytest.mark.numeric
def test_loss_and_gradient_equal_those_of_the_plain_reference(second_order: bool, steps: int) -> None:
    settings = {"kind": "maml", "second_order": second_order, "inner_steps": steps, "inner_lr": 0.05}
    learner, episode = gradient_learner("paper", torch.float64, **settings), noise_episode(torch.float64)
    outcome, gradient = outcome_and_gradient(learner, episode)
    loss, expected = query_loss_and_gradient(learner, episode, adapted=None)
    torch.testing.assert_close(outcome.loss, loss)
    for name, value in expected.items():
        # The bias of a convolution has no effect before batch-norm: its gradient is zero up to rounding.
        torch.testing.assert_close(gradient[name], value, atol=1e-9, rtol=1e-6, msg=name)


def graph_nodes(learner: GradientLearner, episode: Episode) -> int:
    """Number of nodes of the graph behind the outer loss."""
    parameters = {name: value.requires_grad_() for name, value in learner.parameters.items()}
    loss = learner.episode_loss(parameters, learner.running_statistics, episode).loss
    visited, queue = set(), [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        queue += [parent for parent, _ in node.next_functions]
    return len(visited)


def test_first_order_and_adaptation_build_no_second_order_graph() -> None:
    episode = noise_episode()
    one, many = (graph_nodes(gradient_learner(second_order=False, inner_steps=steps), episode) for steps in (1, 10))
    # Per step only the addition of a constant to each weight.
    assert many - one <= 9 * 2 * len(gradient_learner().parameters)
    assert graph_nodes(gradient_learner(second_order=True, inner_steps=10), episode) > 10 * many
    classifier = gradient_learner(test_inner_steps=5).adapt(episode.support_images, episode.support_labels)
    assert not classifier.predict_proba(episode.query_images).requires_grad
    assert not any(value.requires_grad for value in classifier.parameters.values())  # type: ignore[attr-defined]
