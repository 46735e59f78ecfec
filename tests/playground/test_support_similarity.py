from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.learners import FewShotClassifier, MetaLearner
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.playground.support_similarity import support_similarity
from tests.factories import PREPROCESSING, SIZE, images, zoo

LABELS = torch.tensor([0, 0, 1, 1])


def _embedding() -> tuple[MetaLearner, Callable[[Tensor], Tensor]]:
    learner = ZooEmbedding(representation="features").fit(zoo(), device="cpu")
    return learner, learner.embed  # type: ignore[attr-defined]


def test_similarities_are_cosines_in_the_space_of_the_classifier() -> None:
    learner, embed = _embedding()
    support, tests = images(4, seed=1, size=SIZE), images(3, seed=2, size=SIZE)
    found = support_similarity(learner.adapt(support, LABELS), support, tests)
    assert found is not None
    expected = functional.cosine_similarity(embed(tests)[:, None], embed(support)[None], dim=2)
    torch.testing.assert_close(found.test_to_support, expected)
    among = functional.cosine_similarity(embed(support)[:, None], embed(support)[None], dim=2)
    others = [among[row, [column for column in range(4) if column != row]].max().item() for row in range(4)]
    assert found.threshold == pytest.approx(min(others), abs=1e-5)
    highest = expected[0].sort(descending=True).values.tolist()
    for count in (2, 9):
        nearest = found.nearest(0, count)
        assert [cosine for _, cosine in nearest] == pytest.approx(highest[:count], abs=1e-5)
        assert [expected[0, index].item() for index, _ in nearest] == pytest.approx(highest[:count], abs=1e-5)


def test_a_network_classifier_is_compared_by_its_features(learner: MetaLearner) -> None:
    support = images(4, seed=1, size=SIZE)
    found = support_similarity(learner.adapt(support, LABELS), support, support)
    assert found is not None
    torch.testing.assert_close(found.test_to_support.diagonal(), torch.ones(4))
    assert found.threshold < 1


def test_without_test_images_there_is_still_a_threshold(learner: MetaLearner) -> None:
    support = images(4, seed=1, size=SIZE)
    found = support_similarity(learner.adapt(support, LABELS), support, support[:0])
    assert found is not None
    assert found.test_to_support.shape == (0, 4)


def test_a_kind_of_classifier_from_outside_has_no_similarities() -> None:
    class Outside(FewShotClassifier):
        def __init__(self) -> None:
            self.labels, self.preprocessing = ("a", "b"), PREPROCESSING

        def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
            return images.mean((1, 2, 3))[:, None] * torch.tensor([1.0, -1.0])

        def state_dict(self) -> dict[str, Tensor]:
            return {}

        @classmethod
        def from_config(cls, config: dict[str, object], state_dict: dict[str, Tensor]) -> Outside:
            return cls()

    assert support_similarity(Outside(), images(2, size=SIZE), images(1, size=SIZE)) is None
