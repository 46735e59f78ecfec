"""`dfml.sklearn.FewShotClassifier` keeps the contract of scikit-learn's estimators."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dfml.errors import LearnerError
from dfml.learners import Student
from dfml.sklearn import FewShotClassifier
from tests.factories import PREPROCESSING, SIZE

LEARNER = Student.untrained("conv4", {}, (3, 2), PREPROCESSING, embedding="features")

EXPECTED_FAILURES = {
    "check_estimators_overwrite_params": "it compares pickles, and those of a network and its copy differ",
    "check_do_not_raise_errors_in_init_or_set_params": "the test suite checks types of arguments; no user's call does",
    "check_methods_subset_invariance": "float32: a batch of another size sums in another order; differences of 1e-6",
}
"""Checks of scikit-learn that the estimator does not pass, with the reason."""


def estimator(**settings: Any) -> FewShotClassifier:
    return FewShotClassifier(LEARNER, low=-4.0, high=4.0, **settings)


def coloured(count: int = 12) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Bytes of images of two colours, with noise."""
    rng = np.random.default_rng(0)
    labels = ["red" if index % 2 else "blue" for index in range(count)]
    base = np.array([[200, 30, 30] if label == "red" else [30, 30, 200] for label in labels])
    noise = rng.integers(-20, 20, (count, SIZE, SIZE, 3))
    return (base[:, None, None] + noise).clip(0, 255).astype(np.uint8), labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of scikit-learn, about the data of its own checks
@parametrize_with_checks(
    [estimator()],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
    xfail_strict=False,  # the last one on some CPUs
)
def test_checks_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


def test_a_copy_of_a_network_has_another_pickle_but_fit_does_not_change_the_learner() -> None:
    images, labels = coloured()
    before = {name: value.clone() for name, value in LEARNER.state_dict().items()}
    assert joblib.hash(LEARNER) != joblib.hash(deepcopy(LEARNER))  # why a check of scikit-learn fails
    FewShotClassifier(LEARNER).fit(images, labels)
    assert all(torch.equal(value, before[name]) for name, value in LEARNER.state_dict().items())


def test_images_in_every_form(tmp_path: Path) -> None:
    images, labels = coloured()
    paths = []
    for index, image in enumerate(images):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    flat = images.reshape(len(images), -1) / 255
    for X in (images, list(images), paths, np.array(list(map(str, paths))), [Image.fromarray(i) for i in images]):
        fitted = FewShotClassifier(LEARNER).fit(X, labels)
        assert fitted.classes_.tolist() == ["blue", "red"]
        assert fitted.predict(X).tolist() == labels
        assert fitted.predict_proba(X).shape == (12, 2)
    rows = FewShotClassifier(LEARNER, image_shape=(SIZE, SIZE, 3)).fit(flat, labels)
    assert rows.n_features_in_ == flat.shape[1]
    np.testing.assert_allclose(rows.predict_proba(flat), fitted.predict_proba(images), atol=1e-5)


def test_it_works_in_pipelines_cross_validation_and_searches() -> None:
    images, labels = coloured(24)
    flat = images.reshape(len(images), -1)
    pipeline = make_pipeline(MinMaxScaler(), FewShotClassifier(LEARNER))
    assert cross_val_score(pipeline, flat, labels, cv=3).mean() == 1.0
    assert cross_val_score(FewShotClassifier(LEARNER), list(images), labels, cv=3).mean() == 1.0
    search = GridSearchCV(FewShotClassifier(LEARNER, high=255.0), {"low": [0.0, -255.0]}, cv=2).fit(flat, labels)
    assert search.best_score_ == 1.0


def test_integer_labels_come_back(tmp_path: Path) -> None:
    LEARNER.save_pretrained(tmp_path)
    images, labels = coloured(4)
    numbers = [7 if label == "red" else 3 for label in labels]
    fitted = clone(FewShotClassifier(str(tmp_path), device="cpu")).fit(images, numbers)
    assert fitted.predict(images).tolist() == numbers
    assert fitted.classifier_.labels == ("3", "7")


def test_what_is_missing_is_named() -> None:
    images, labels = coloured(4)
    with pytest.raises(ValueError, match="expected a learner, its folder or METHOD:ZOO"):
        FewShotClassifier().fit(images, labels)
    with pytest.raises(LearnerError, match="neither"):
        FewShotClassifier("missing").fit(images, labels)
    with pytest.raises(ValueError, match="expected at least 2 classes, found 1 class"):
        FewShotClassifier(LEARNER).fit(images, ["red"] * 4)
