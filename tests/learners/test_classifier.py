from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from dfml.errors import LearnerError
from dfml.learners import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingClassifier
from tests.factories import images

from .small import KINDS, WAY, gradient_learner, noise_episode


@pytest.mark.parametrize("kind", KINDS)
def test_any_way_uneven_support_any_image_size(kind: str) -> None:
    labels = torch.tensor([4, 0, 1, 1, 2, 3, 1])
    classifier = gradient_learner(kind=kind).adapt(images(7, size=23), labels, ("p", "q", "r", "s", "t"))
    assert classifier.labels == ("p", "q", "r", "s", "t")
    shown = torch.rand(3, 3, 40, 20, generator=torch.Generator().manual_seed(0))
    probabilities = classifier.predict_proba(shown)
    assert probabilities.shape == (3, 5)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    assert classifier.predict(shown) == [classifier.labels[index] for index in probabilities.argmax(dim=1)]


@pytest.mark.parametrize(("kind", "protocol"), list(product(KINDS, ("strict", "paper"))))
def test_learner_and_classifier_predict_the_same_after_saving_and_loading(
    kind: str, protocol: str, tmp_path: Path
) -> None:
    learner, episode = gradient_learner(protocol, kind=kind, statistics_shrinkage=0.3), noise_episode()
    learner.running_statistics = {name: value + 0.5 for name, value in learner.running_statistics.items()}
    learner.save_pretrained(tmp_path / "learner")
    loaded = MetaLearner.from_pretrained(tmp_path / "learner")
    assert (type(loaded), loaded.name, loaded.way, loaded.protocol) == (type(learner), learner.name, WAY, protocol)
    support = episode.support_images, episode.support_labels, ("x", "y", "z")
    loaded.adapt(*support).save_pretrained(tmp_path / "classifier")
    classifier = FewShotClassifier.from_pretrained(tmp_path / "classifier")
    assert classifier.labels == ("x", "y", "z")
    expected = learner.adapt(*support).predict_proba(episode.query_images)
    # The same bits up to memory layout, which decides the order of a convolution's sums.
    torch.testing.assert_close(classifier.predict_proba(episode.query_images), expected)


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="expected a saved classifier"):
        FewShotClassifier.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "conv4"}')  # of a zoo member
    with pytest.raises(LearnerError, match=r"expected a saved classifier.* names no `kind`"):
        FewShotClassifier.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format_version": 1, "kind": "unknown"}')
    with pytest.raises(LearnerError, match=r"a few-shot classifier .* the kind 'unknown'; .* install the package that"):
        FewShotClassifier.from_pretrained(tmp_path)


def test_a_kind_of_classifier_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="found 'embedding'"):
        type("Duplicate", (EmbeddingClassifier,), {"kind": "embedding"})
    type("Child", (EmbeddingClassifier,), {})  # without a kind of its own, it is saved as its parent
    assert FewShotClassifier._kinds["embedding"] is EmbeddingClassifier
