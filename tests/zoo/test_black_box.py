"""Members that only predict, made from a function."""

from __future__ import annotations

import torch
from torch import Tensor

from dfml.zoo import Differentiable, Predicts
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.members import teacher_logits
from tests.factories import PREPROCESSING, images, member


def test_it_predicts_as_the_network_that_it_asks() -> None:
    network, calls = member(), []

    def ask(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return network.network(inputs)

    box = BlackBoxClassifier(ask, network.labels, PREPROCESSING, "somewhere", batch=4)
    assert isinstance(box, Predicts)
    assert not isinstance(box, Differentiable)
    for size in (PREPROCESSING.size, 23):
        batch = images(6, size=size)
        torch.testing.assert_close(box.predict_proba(batch), network.predict_proba(batch), rtol=1e-5, atol=1e-6)
    assert calls == [4, 2, 4, 2]
    batch = images(3).requires_grad_(True)
    assert not teacher_logits(box, batch).requires_grad
