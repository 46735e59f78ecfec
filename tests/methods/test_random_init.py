from __future__ import annotations

import pytest
import torch

from dfml.learners.gradient_based import GradientLearner
from dfml.methods.base import Method
from dfml.methods.random_init import RandomEmbedding, RandomInit
from tests.factories import zoo


@pytest.mark.parametrize("method", [RandomInit, RandomEmbedding])
def test_the_weights_of_the_members_are_not_used(method: type[Method]) -> None:
    first, second = (method(way=3).fit(members, device="cpu") for members in (zoo(2), zoo(3)))
    assert isinstance(first, GradientLearner)
    assert isinstance(second, GradientLearner)
    assert all(torch.equal(value, second.parameters[name]) for name, value in first.parameters.items())


def test_the_embedding_is_adapted_by_class_means() -> None:
    assert RandomEmbedding(way=3).fit(zoo(2), device="cpu").kind == "protonet"
