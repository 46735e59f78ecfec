"""Ridge regression on the features of weights that the user has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from dfml.data.glyphs import glyphs
from dfml.images import to_float
from dfml.learners import MetaLearner
from dfml.learners.embedding import embedding_scores, fit_head
from dfml.methods.open_learner import open_learner
from tests.factories import ZooMaker, edit_config

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder as timm writes it, without names of the classes."""
    folder, _ = ZooMaker(tmp_path / "weights").member(
        "resnet", tuple(map(str, range(7))), architecture="resnet18", arguments={}, size=32
    )
    edit_config(folder, label_names=None)
    return folder


def test_it_is_ridge_regression_on_the_features_of_the_weights(weights: Path) -> None:
    learner = open_learner(f"frozen_backbone:{weights}", "cpu")
    data = glyphs("test", per_class=2, size=32)
    images = to_float(data.images[:6])
    member = learner.members[0]  # type: ignore[attr-defined]
    features = functional.normalize(member.features(images), dim=1)
    assert features.shape == (6, 512)
    head = fit_head(features, LABELS, 3, "ridge")
    found = learner.adapt(images, LABELS).predict_proba(images)
    torch.testing.assert_close(found, embedding_scores(features, head).softmax(dim=1))
    assert (learner.name, learner.preprocessing.size) == ("frozen_backbone", 32)


def test_it_is_saved_like_other_learners(weights: Path, tmp_path: Path) -> None:
    learner = open_learner(f"frozen_backbone:{weights}", "cpu")
    images = to_float(glyphs("test", per_class=2, size=32).images[:6])
    learner.save_pretrained(tmp_path / "learner")
    again = MetaLearner.from_pretrained(tmp_path / "learner")
    assert again.adapt(images, LABELS).predict(images) == learner.adapt(images, LABELS).predict(images)
