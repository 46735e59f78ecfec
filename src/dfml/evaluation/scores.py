"""Scores of the query images of evaluation episodes, with the time that adaptation and prediction took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dfml.data.dataset import ImageDataset
from dfml.images import resize_and_crop, to_float
from dfml.learners.base import Calibration, MetaLearner
from dfml.learners.embedding import EmbeddingLearner, embedding_scores, fit_head

Score = Callable[[Sequence[tuple[Tensor, Tensor]], int], Iterator[tuple[Tensor, float, float]]]
"""Function of the episodes and the way.

An episode is a pair of indices into the data set, of its support images and of its query images (way *
query), both class by class: first all images of class 0. For every episode, in order, the function yields

- the scores of the query images, (way * query, way): probabilities or logits; only the largest of each row counts;
- the seconds of the adaptation, wall-clock time;
- the seconds of the prediction of all query images, wall-clock time."""

# Episodes per call of a calibration: ICFIL calibrates them together (`vmap`), and its memory grows with their number.
_CALIBRATION_BATCH = 8
_EMBEDDING_BATCH = 500  # images per call of `embed`


def adapted_scores(learner: MetaLearner, dataset: ImageDataset, calibration: Calibration | None) -> Score:
    """Adapt to every support set and predict its query images.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images.
        calibration: Second adaptation step, such as ICFIL (not a calibration of probabilities); None: none. It is
            applied to several episodes in one call; the adaptation time of each is then the mean over these episodes.

    Returns:
        Function that yields probabilities.
    """

    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        size = _CALIBRATION_BATCH if calibration else 1
        for batch in (episodes[start : start + size] for start in range(0, len(episodes), size)):
            started = time.perf_counter()
            supports = [_support(learner, dataset, support) for support, _ in batch]
            classifiers = [learner.adapt(*support, calibration=None) for support in supports]
            if calibration:
                classifiers = calibration.calibrate(learner, classifiers, supports)
            adapting = (time.perf_counter() - started) / len(batch)
            for classifier, (_, query_indices) in zip(classifiers, batch, strict=True):
                queries = to_float(dataset.images[query_indices]).to(learner.device)
                started = time.perf_counter()
                # In one batch: under the protocol `paper`, batch-norm uses the statistics of the whole query set.
                scores = classifier.predict_proba(queries, batch_size=len(queries))
                yield scores, adapting, time.perf_counter() - started

    return score


def _support(learner: MetaLearner, dataset: ImageDataset, support: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels of a support set whose indices are class by class."""
    images = resize_and_crop(to_float(dataset.images[support]), learner.preprocessing.size).to(learner.device)
    return images, _support_labels(dataset, support).to(learner.device)


def _support_labels(dataset: ImageDataset, support: Tensor) -> Tensor:
    """Labels of an episode's support images, which are sorted by class; classes may have different numbers."""
    _, labels = torch.unique_consecutive(dataset.labels[support], return_inverse=True)
    return torch.as_tensor(labels)


def embedded_scores(learner: EmbeddingLearner, dataset: ImageDataset) -> Score:
    """Embed every image of the data set once, and fit a head per episode.

    The times of an episode are estimates: its number of support images (adaptation) or of query images (prediction),
    times the mean time to embed one image of the data set. Fitting the head is not timed.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images; all are embedded when this function is called.

    Returns:
        Function that yields logits.
    """
    size = learner.preprocessing.size
    started = time.perf_counter()
    with torch.no_grad():
        parts = [
            learner.embed(resize_and_crop(to_float(part).to(learner.device), size))
            for part in torch.split(dataset.images, _EMBEDDING_BATCH)
        ]
    embeddings = torch.cat(parts)
    seconds_per_image = (time.perf_counter() - started) / len(dataset)

    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        for support, queries in episodes:
            labels = _support_labels(dataset, support).to(embeddings.device)
            head = fit_head(embeddings[support], labels, way, learner.fit)
            scores = embedding_scores(embeddings[queries], head)
            yield scores, seconds_per_image * len(support), seconds_per_image * len(queries)

    return score
