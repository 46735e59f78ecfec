from __future__ import annotations

import pytest
import torch

from dfml.backbones import create_backbone
from dfml.errors import ZooError
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import Average
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member, zoo


def test_the_learner_is_the_mean_of_weights_and_heads() -> None:
    members = zoo(3)
    learner = Average(way=3).fit(members, device="cpu")
    assert isinstance(learner, GradientLearner)
    for name, mine in (("backbone.blocks.2.norm.weight", "blocks.2.norm.weight"), ("head.weight", "head.weight")):
        mean = torch.stack([m.network.state_dict()[mine] for m in members]).mean(dim=0)
        torch.testing.assert_close(learner.parameters[name], mean)
    assert learner.config.test_inner_steps == 10


def test_a_learner_of_another_size_keeps_its_own_head() -> None:
    members = zoo(3)
    usual, larger = (Average(way=3, img_size=size).fit(members, device="cpu") for size in (None, 32))
    assert isinstance(usual, GradientLearner)
    assert isinstance(larger, GradientLearner)
    backbone = [name for name in usual.parameters if name.startswith("backbone.")]
    assert all(torch.equal(usual.parameters[name], larger.parameters[name]) for name in backbone)
    assert bool(usual.parameters["head.weight"].any())
    assert not bool(larger.parameters["head.weight"].any())
    with pytest.raises(ZooError, match="needs a member with 5 outputs"):
        Average(way=5, img_size=32).fit(members, device="cpu")


def test_an_error_says_why_members_cannot_be_averaged() -> None:
    other = member(0, preprocessing=Preprocessing(32, PREPROCESSING.mean, PREPROCESSING.std))
    with pytest.raises(ZooError, match="needs a member with 5 outputs"):
        Average(way=5).fit(zoo(), device="cpu")
    resnet = PretrainedClassifier(create_backbone("fewshot_resnet10", 3, seed=0), ("a", "b", "c"), PREPROCESSING)
    with pytest.raises(ZooError, match=r"architecture conv4, but member-001 differs"):
        Average(way=3).fit(Zoo.of([other, resnet]), device="cpu")
