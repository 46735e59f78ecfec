from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from dfml.errors import ConfigError, LearnerError
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import HeadFit, embedding_scores, fit_head
from dfml.learners.zoo_embedding import Representation, ZooEmbeddingLearner
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.zoo import Preprocessing, Zoo
from tests.factories import images, member, written_zoo, zoo
from tests.methods.reference import member_representation

LABELS = torch.tensor([0, 1, 0, 1, 1])
LARGER = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))


def test_the_default_is_the_nearest_class_mean_of_all_softmax_outputs() -> None:
    members = zoo(4)
    learner = ZooEmbedding().fit(members, device="cpu")
    support, queries = images(5, 1), images(7, 2)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.network(m.preprocessing.normalise(batch)).softmax(dim=1) for m in members], dim=1)

    means = torch.stack([embed(support)[label == LABELS].mean(dim=0) for label in range(2)])
    expected = torch.cosine_similarity(embed(queries)[:, None], means[None], dim=2)
    found = learner.adapt(support, LABELS).predict_proba(queries)
    torch.testing.assert_close(found, (10 * expected).softmax(dim=1))
    alone = torch.cat([learner.adapt(support, LABELS).predict_proba(image[None]) for image in queries])
    torch.testing.assert_close(found, alone)


def test_a_saved_learner_refers_to_its_members_and_detects_a_changed_one(tmp_path: Path) -> None:
    members = written_zoo(tmp_path / "zoo")
    learner = ZooEmbedding().fit(members, out=tmp_path / "learner", device="cpu")
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
        ZooEmbedding().fit(zoo(), out=tmp_path / "other", device="cpu")


@pytest.mark.parametrize(("representation", "fit"), list(product(get_args(Representation), ("mean", "ridge"))))
def test_representation_and_head_are_those_of_the_settings(representation: Representation, fit: HeadFit) -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER), member(2)])
    learner = ZooEmbedding(representation=representation, fit=fit).fit(members, device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)

    def embed(batch: Tensor) -> Tensor:
        return torch.cat([member_representation(each, batch, representation) for each in members], dim=1)

    torch.testing.assert_close(learner.embed(images(5, 1)), embed(images(5, 1)))
    head = fit_head(embed(images(5, 1)), LABELS, 2, fit)
    expected = embedding_scores(embed(images(7, 2)), head).softmax(dim=1)
    torch.testing.assert_close(learner.adapt(images(5, 1), LABELS).predict_proba(images(7, 2)), expected)


def test_a_loaded_learner_has_the_same_representation_and_head(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"representation": "features", "fit": "ridge", "way": 2}
    learner = ZooEmbedding(**settings).fit(written_zoo(tmp_path / "zoo"), out=tmp_path / "run", device="cpu")
    again = MetaLearner.from_pretrained(tmp_path / "run")
    assert isinstance(again, ZooEmbeddingLearner)
    assert (again.representation, again.fit, again.way, again.name) == ("features", "ridge", 2, "zoo_embedding")
    predictions = [each.adapt(images(5, 1), LABELS).predict_proba(images(3, 2)) for each in (learner, again)]
    assert torch.equal(*predictions)
    with pytest.raises(ConfigError, match=r"setting 'zoo_embedding\.representation'"):
        ZooEmbedding(representation="votes")
    with pytest.raises(ConfigError, match=r"setting 'zoo_embedding\.fit'"):
        ZooEmbedding(fit="forest")


def test_the_image_size_is_a_setting() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER)])
    for size in (16, 24):
        learner = ZooEmbedding(img_size=size).fit(members, device="cpu")
        assert isinstance(learner, ZooEmbeddingLearner)
        assert learner.preprocessing.size == size
        batch = images(3, size=size)
        expected = torch.cat([member_representation(each, batch, "probabilities") for each in members], dim=1)
        torch.testing.assert_close(learner.embed(batch), expected)
