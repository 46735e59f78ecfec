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
from dfml.learners.episode import episode_labels

Score = Callable[[Sequence[tuple[Tensor, Tensor]], int], Iterator[tuple[Tensor, float, float]]]
"""Function of (support and query indices of every episode, way); for every episode, it yields the scores of the query
images, the seconds of the adaptation, and the seconds of the prediction."""

# Number of episodes that are calibrated in one call.
_CALIBRATION_BATCH = 8


def adapted_scores(learner: MetaLearner, dataset: ImageDataset, calibration: Calibration | None) -> Score:
    """Adapt to every support set and predict its query images, with an optional calibration of several tasks at once.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images.
        calibration: Calibration of every adapted classifier.

    Returns:
        Function that scores episodes.
    """

    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        size = _CALIBRATION_BATCH if calibration else 1
        for batch in (episodes[start : start + size] for start in range(0, len(episodes), size)):
            started = time.perf_counter()
            supports = [_support(learner, dataset, support, way) for support, _ in batch]
            classifiers = [learner.adapt(*support) for support in supports]
            if calibration:
                classifiers = calibration.calibrate(learner, classifiers, supports)
            adapting = (time.perf_counter() - started) / len(batch)
            for classifier, (_, query_indices) in zip(classifiers, batch, strict=True):
                queries = to_float(dataset.images[query_indices]).to(learner.device)
                started = time.perf_counter()
                # One batch: by the transductive rule, the whole query set is normalised together.
                scores = classifier.predict_proba(queries, batch_size=len(queries))
                yield scores, adapting, time.perf_counter() - started

    return score


def _support(learner: MetaLearner, dataset: ImageDataset, support: Tensor, way: int) -> tuple[Tensor, Tensor]:
    images = resize_and_crop(to_float(dataset.images[support]), learner.preprocessing.size).to(learner.device)
    return images, episode_labels(way, len(support) // way, learner.device)


def embedded_scores(learner: EmbeddingLearner, dataset: ImageDataset) -> Score:
    """Embed every image of the data set once, and fit a head per episode.

    The mean time to embed an image counts as adaptation or prediction time wherever an episode uses an image.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images; all are embedded when this function is called.

    Returns:
        Function that scores episodes.
    """
    size = learner.preprocessing.size
    started = time.perf_counter()
    with torch.no_grad():
        parts = [
            learner.embed(resize_and_crop(to_float(part).to(learner.device), size))
            for part in torch.split(dataset.images, 500)
        ]
    embeddings = torch.cat(parts)
    seconds_per_image = (time.perf_counter() - started) / len(dataset)

    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        for support, queries in episodes:
            labels = episode_labels(way, len(support) // way, embeddings.device)
            head = fit_head(embeddings[support], labels, way, learner.fit)
            scores = embedding_scores(embeddings[queries], head)
            yield scores, seconds_per_image * len(support), seconds_per_image * len(queries)

    return score
