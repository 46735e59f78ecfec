"""Images of members that only predict: the estimate of the gradient, and what it costs in queries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfml.inversion.engine import Target, balanced_labels
from dfml.inversion.zeroth_order import EstimatedMember
from dfml.zoo import CountedMember, Preprocessing
from dfml.zoo.members import teacher_logits
from tests.factories import member
from tests.inversion.small import small_engine


class Linear:
    """Probabilities of a linear function of the pixels; refuses images outside of [0, 1]."""

    labels = ("a", "b", "c")
    preprocessing = Preprocessing(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    source = "test"

    def __init__(self) -> None:
        self.weight = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))

    def predict_proba(self, images: Tensor) -> Tensor:
        assert float(images.min()) >= 0.0
        assert float(images.max()) <= 1.0
        return (images.flatten(1) @ self.weight.T).softmax(dim=1)


def test_many_directions_estimate_the_gradient() -> None:
    """Of any function of the log-probabilities; with d = 48 pixel values and 6,000 directions, errors are about 9%."""
    linear = Linear()
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    labels = torch.tensor([0, 1, 2])

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, labels) + logits.square().mean()

    exact = images.clone().requires_grad_()
    loss((exact.flatten(1) @ linear.weight.T).log_softmax(dim=1)).backward()
    estimated = images.clone().requires_grad_()
    generator = torch.Generator().manual_seed(2)
    loss(EstimatedMember(linear, 6000, 0.001, generator).logits(estimated)).backward()
    assert exact.grad is not None
    assert estimated.grad is not None
    error = (estimated.grad - exact.grad).flatten(1).norm(dim=1) / exact.grad.flatten(1).norm(dim=1)
    assert float(error.max()) < 0.2


def test_points_outside_of_the_range_are_moved_to_its_border() -> None:
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()
    EstimatedMember(Linear(), 8, 0.5, torch.Generator().manual_seed(0)).logits(images).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


def test_a_round_asks_as_often_as_it_says() -> None:
    counted = CountedMember(member())
    for settings in ({}, {"latent_draws": 3}):
        engine = small_engine("zeroth_order", steps=2, directions=4, **settings)
        before = counted.queried
        inversion = engine.start([Target("a", counted, balanced_labels(3, 2))])
        inversion.take_steps(engine.steps)
        assert counted.queried - before == 6 * engine.queries_per_image
    assert engine.queries_per_image == 3 + 2 * 5


@pytest.mark.numeric
def test_a_member_that_only_predicts_recognises_more_of_its_images() -> None:
    """From its predictions alone."""
    counted = CountedMember(member())
    labels = balanced_labels(3, 4)
    engine = small_engine("zeroth_order", steps=60, directions=32, lr=0.02)
    inversion = engine.start([Target("a", counted, labels)])

    def loss() -> float:
        (images,) = inversion.images()
        return float(torch.nn.functional.cross_entropy(teacher_logits(counted, images), labels))

    before = loss()
    inversion.take_steps(engine.steps)
    assert loss() < 0.7 * before
