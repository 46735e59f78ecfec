"""The field's protocol: many seeded episodes of unseen classes, mean accuracy, 95% confidence interval."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfml import seeds
from dfml.data.dataset import ImageDataset
from dfml.errors import DataError, ProtocolError, UsageError
from dfml.images import resize_and_crop, to_float
from dfml.learners.base import Calibration, MetaLearner, ProtocolName
from dfml.learners.embedding import EmbeddingLearner, embedding_scores, fit_head
from dfml.learners.episode import episode_labels, sample_episode_indices

# The normal quantile; at 600 episodes it differs from Student's by one in a thousand.
_Z = 1.96


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        name: The learner's.
        accuracies: One an episode, so that two learners can be compared in pairs.
        protocol: `strict` or `paper`.
        seconds: Of the whole evaluation.
        adapt_ms: Milliseconds to adapt to one support set.
        predict_ms: Milliseconds a query image.
        note: What a reader must know before he compares the figure.
        versions: Of what computed it.
    """

    name: str
    accuracies: tuple[float, ...]
    protocol: ProtocolName
    way: int
    shot: int
    query: int
    seed: int
    dataset: str
    seconds: float
    adapt_ms: float
    predict_ms: float
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Mean over episodes, a fraction."""
        return float(np.mean(self.accuracies))

    @property
    def ci(self) -> float:
        """Half the width of the 95% confidence interval of the mean, a fraction."""
        return _half_width(np.asarray(self.accuracies))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a `results.json`."""
        values = asdict(self)
        accuracies = [round(value, 6) for value in values.pop("accuracies")]
        return {
            "accuracy": self.accuracy,
            "ci": self.ci,
            "episodes": len(accuracies),
            **values,
            "accuracies": accuracies,
        }


@dataclass(frozen=True)
class Difference:
    """Of two learners on the same episodes: the mean of `first - second`, and half its 95% confidence interval."""

    first: str
    second: str
    mean: float
    ci: float


def compare(first: Evaluation, second: Evaluation) -> Difference:
    """Compare in pairs.

    Raises:
        ValueError: If the two were not evaluated on the same episodes.
    """
    settings = ("way", "shot", "query", "seed", "dataset")
    same = all(getattr(first, name) == getattr(second, name) for name in settings)
    if not same or len(first.accuracies) != len(second.accuracies):
        raise ValueError(f"{first.name} and {second.name} were evaluated on different episodes")
    differences = np.subtract(first.accuracies, second.accuracies)
    return Difference(first.name, second.name, float(differences.mean()), _half_width(differences))


def evaluate(
    learner: MetaLearner,
    dataset: ImageDataset,
    *,
    way: int = 5,
    shot: int = 1,
    query: int = 15,
    episodes: int = 600,
    seed: int = 0,
    protocol: ProtocolName = "strict",
    allow_other_protocol: bool = False,
    calibration: Calibration | None = None,
    on_episode: Callable[[int], None] | None = None,
) -> Evaluation:
    """Accuracy of a learner on classes that it has never seen.

    Args:
        learner: What is judged.
        dataset: Labelled images; episodes are drawn from all its classes.
        way: Classes an episode.
        shot: Support images a class.
        query: Query images a class; never among the support images.
        episodes: How many. Episode i is the same for every learner, whatever their number.
        seed: Of the draws.
        protocol: `strict`: one image's answer does not depend on the other queries. `paper`: it may.
        allow_other_protocol: Evaluate a learner that was trained for the other protocol.
        calibration: What adapted classifiers go through before they predict, several episodes at a time.
        on_episode: Told the number of finished episodes.

    Raises:
        ProtocolError: If the learner was trained for the other protocol.
        DataError: If the data set has too few classes, or a class too few images.
        LearnerError: If the calibration is not for this kind of learner.
        UsageError: If no episode is asked for.
    """
    if episodes < 1:
        raise UsageError(f"expected at least one episode, found episodes={episodes}")
    require_evaluable(learner, dataset, way, shot, query, protocol, allow_other_protocol=allow_other_protocol)
    if calibration:
        calibration.check(learner)
    other = learner.protocol not in (protocol, "any")
    began = time.perf_counter()
    score = (
        _embedded_scores(learner, dataset)
        if isinstance(learner, EmbeddingLearner)
        else _adapted_scores(learner, dataset, calibration)
    )
    accuracies, adapting, predicting = [], 0.0, 0.0
    drawn = [sample_evaluation_episode(dataset, way, shot, query, seed, index) for index in range(episodes)]
    for scores, adapt_seconds, predict_seconds in score(drawn, way):
        target = episode_labels(way, query, scores.device)
        accuracies.append((scores.argmax(dim=1) == target).double().mean().item())
        adapting, predicting = adapting + adapt_seconds, predicting + predict_seconds
        if on_episode:
            on_episode(len(accuracies))
    return Evaluation(
        name=f"{learner.name} + {calibration.name}" if calibration else learner.name,
        accuracies=tuple(accuracies),
        protocol=protocol,
        way=way,
        shot=shot,
        query=query,
        seed=seed,
        dataset=dataset.name,
        seconds=time.perf_counter() - began,
        adapt_ms=1000.0 * adapting / episodes,
        predict_ms=1000.0 * predicting / (episodes * way * query),
        note=f"trained and adapted by the protocol {learner.protocol}" if other else "",
        versions=versions(),
    )


def sample_evaluation_episode(
    dataset: ImageDataset, way: int, shot: int, query: int, seed: int, index: int
) -> tuple[Tensor, Tensor]:
    """Indices of the support and query images of one episode, class by class."""
    rows = [dataset.of_class(label) for label in range(len(dataset.classes))]
    sizes = torch.tensor([len(row) for row in rows])
    classes, support, of_query = sample_episode_indices(
        sizes, way, shot, query, seeds.generator(seed, "evaluation", index)
    )
    chosen = [rows[label] for label in classes.tolist()]
    return (
        torch.cat([row[place] for row, place in zip(chosen, support, strict=True)]),
        torch.cat([row[place] for row, place in zip(chosen, of_query, strict=True)]),
    )


Score = Callable[[Sequence[tuple[Tensor, Tensor]], int], Iterator[tuple[Tensor, float, float]]]
"""Support and query indices of episodes, way -> of each episode scores of the queries, seconds to adapt and predict."""

_TOGETHER = 8  # tasks that are calibrated in one call


def _adapted_scores(learner: MetaLearner, dataset: ImageDataset, calibration: Calibration | None) -> Score:
    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        size = _TOGETHER if calibration else 1
        for several in (episodes[start : start + size] for start in range(0, len(episodes), size)):
            began = time.perf_counter()
            supports = [_support(learner, dataset, support, way) for support, _ in several]
            classifiers = [learner.adapt(*support) for support in supports]
            if calibration:
                classifiers = calibration.calibrate(learner, classifiers, supports)
            adapting = (time.perf_counter() - began) / len(several)
            for classifier, (_, of_query) in zip(classifiers, several, strict=True):
                queries = to_float(dataset.images[of_query]).to(learner.device)
                began = time.perf_counter()
                # One batch: under the transductive rule, the whole query set normalises itself.
                scores = classifier.predict_proba(queries, batch_size=len(queries))
                yield scores, adapting, time.perf_counter() - began

    return score


def _support(learner: MetaLearner, dataset: ImageDataset, support: Tensor, way: int) -> tuple[Tensor, Tensor]:
    images = resize_and_crop(to_float(dataset.images[support]), learner.preprocessing.size).to(learner.device)
    return images, episode_labels(way, len(support) // way, learner.device)


def _embedded_scores(learner: EmbeddingLearner, dataset: ImageDataset) -> Score:
    """Every image is embedded once, not once an episode; its time is charged to the images as they are used."""
    size = learner.preprocessing.size
    began = time.perf_counter()
    with torch.no_grad():
        parts = [
            learner.embed(resize_and_crop(to_float(part).to(learner.device), size))
            for part in torch.split(dataset.images, 500)
        ]
    table = torch.cat(parts)
    an_image = (time.perf_counter() - began) / len(dataset)

    def score(episodes: Sequence[tuple[Tensor, Tensor]], way: int) -> Iterator[tuple[Tensor, float, float]]:
        for support, of_query in episodes:
            labels = episode_labels(way, len(support) // way, table.device)
            head = fit_head(table[support], labels, way, learner.fit)
            yield embedding_scores(table[of_query], head), an_image * len(support), an_image * len(of_query)

    return score


def require_evaluable(
    learner: MetaLearner,
    dataset: ImageDataset,
    way: int,
    shot: int,
    query: int,
    protocol: ProtocolName,
    *,
    allow_other_protocol: bool = False,
) -> None:
    """Whether `evaluate` can do what it is asked for, so that many evaluations fail before the first begins.

    Raises:
        ProtocolError: If the learner was trained for the other protocol.
        DataError: If the data set has too few classes, or a class too few images.
    """
    if learner.protocol not in (protocol, "any") and not allow_other_protocol:
        raise ProtocolError(
            f"{learner.name} was trained for the protocol {learner.protocol!r}, not {protocol!r}; evaluate it with "
            f"--protocol {learner.protocol}, or train it for the other"
        )
    images = shot + query
    if way > len(dataset.classes):
        raise DataError(
            f"{dataset.name} has {len(dataset.classes)} classes, but --way asks for {way}; choose a smaller --way"
        )
    for label, name in enumerate(dataset.classes):
        found = len(dataset.of_class(label))
        if found < images:
            raise DataError(
                f"class {name} of {dataset.name} has {found} images, but shot + query need {images}; "
                "add images, leave the class out, or choose a smaller --shot or --query"
            )


def _half_width(values: np.ndarray) -> float:
    return float(_Z * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def versions() -> dict[str, str]:
    """What computed a result."""
    names = ("dfml", "torch", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
