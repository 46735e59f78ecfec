from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml.errors import LearnerError, UsageError, ZooError
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.gradient import GradientLearner
from dfml.methods import METHODS, find_method
from dfml.zoo import Preprocessing, Zoo
from tests.factories import PREPROCESSING, images, member, written_zoo, zoo

LABELS = torch.tensor([0, 1, 0, 1, 1])


def test_average_is_the_mean_of_weights_and_heads() -> None:
    members = zoo(3)
    learner = METHODS["average"](way=3).fit(members, device="cpu")
    assert isinstance(learner, GradientLearner)
    for name, mine in (("backbone.blocks.2.norm.weight", "blocks.2.norm.weight"), ("head.weight", "head.weight")):
        mean = torch.stack([m.network.state_dict()[mine] for m in members]).mean(dim=0)
        torch.testing.assert_close(learner.parameters[name], mean)
    assert learner.config.test_inner_steps == 10


def test_average_says_why_it_cannot_run() -> None:
    other = member(0, preprocessing=Preprocessing(32, PREPROCESSING.mean, PREPROCESSING.std))
    with pytest.raises(ZooError, match="needs a member with 5 outputs"):
        METHODS["average"](way=5).fit(zoo(), device="cpu")
    from dfml.backbones import create_backbone
    from dfml.zoo import PretrainedClassifier

    resnet = PretrainedClassifier(create_backbone("fewshot_resnet10", 3, seed=0), ("a", "b", "c"), PREPROCESSING)
    with pytest.raises(ZooError, match=r"architecture conv4, but member-001 differs"):
        METHODS["average"](way=3).fit(Zoo.of([other, resnet]), device="cpu")


def test_random_init_uses_nothing_of_the_members_weights() -> None:
    first, second = (METHODS["random_init"](way=3).fit(z, device="cpu") for z in (zoo(2), zoo(3)))
    assert isinstance(first, GradientLearner)
    assert isinstance(second, GradientLearner)
    assert all(torch.equal(value, second.parameters[name]) for name, value in first.parameters.items())


def test_zoo_embedding_is_the_nearest_class_mean_of_all_softmax_outputs() -> None:
    members = zoo(4)
    learner = METHODS["zoo_embedding"]().fit(members, device="cpu")
    support, queries = images(5, 1), images(7, 2)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.network(m.preprocessing.normalise(batch)).softmax(dim=1) for m in members], dim=1)

    means = torch.stack([embed(support)[label == LABELS].mean(dim=0) for label in range(2)])
    expected = torch.cosine_similarity(embed(queries)[:, None], means[None], dim=2)
    found = learner.adapt(support, LABELS).predict_proba(queries)
    torch.testing.assert_close(found, (10 * expected).softmax(dim=1))
    alone = torch.cat([learner.adapt(support, LABELS).predict_proba(image[None]) for image in queries])
    torch.testing.assert_close(found, alone)


def test_zoo_embedding_saves_references_and_notices_a_changed_member(tmp_path: Path) -> None:
    members = written_zoo(tmp_path / "zoo")
    learner = METHODS["zoo_embedding"]().fit(members, out=tmp_path / "learner", device="cpu")
    expected = learner.adapt(images(5, 1), LABELS).predict_proba(images(3, 2))
    loaded = MetaLearner.from_pretrained(tmp_path / "learner")
    classifier = loaded.adapt(images(5, 1), LABELS)
    torch.testing.assert_close(classifier.predict_proba(images(3, 2)), expected)
    classifier.save_pretrained(tmp_path / "classifier")
    again = FewShotClassifier.from_pretrained(tmp_path / "classifier")
    torch.testing.assert_close(again.predict_proba(images(3, 2)), expected)
    weights = tmp_path / "zoo" / "m1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(LearnerError, match=r"m1 has moved or changed"):
        MetaLearner.from_pretrained(tmp_path / "learner")
    with pytest.raises(LearnerError, match="save it first"):
        METHODS["zoo_embedding"]().fit(zoo(), out=tmp_path / "other", device="cpu")


def test_methods_are_found_by_name() -> None:
    assert find_method("purer") is METHODS["purer"]
    with pytest.raises(UsageError, match=r"unknown method 'purr'; choose one of purer"):
        find_method("purr")
