"""Few-shot evaluation: seeded episodes of unseen classes, mean accuracy and its 95% confidence interval.

Episodes are those of Snell et al. (NeurIPS 2017). In this module, `protocol` is the batch-norm rule alone
(`dfml.learners.base.ProtocolName`): the statistics by which batch-norm normalises query images.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch

from dfml.data.dataset import ImageDataset
from dfml.errors import ProtocolError, UsageError
from dfml.evaluation.episodes import Shot, check_enough_images, describe_task, sample_evaluation_episode
from dfml.evaluation.scores import adapted_scores, embedded_scores
from dfml.learners.base import Calibration, MetaLearner, ProtocolName, chosen_calibration
from dfml.learners.embedding import EmbeddingLearner
from dfml.learners.episode import episode_labels

# Quantile of the normal distribution; for 600 episodes that of Student's t distribution is larger by 0.2%.
_Z = 1.96


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        name: Name of the learner, with that of its calibration.
        accuracies: Accuracy on the query set of every episode, fractions; `compare` takes their differences in pairs.
        protocol: Batch-norm rule that was asked for, `strict` or `paper`. If a learner of the other rule was allowed,
            this is not the rule by which it was evaluated, which `note` names.
        way: Number of classes per episode.
        shot: Number of support images per class; a pair for uneven support (see `Shot`).
        query: Number of query images per class.
        seed: Seed of the episodes.
        dataset: Name of the data set.
        seconds: Wall-clock time of the whole evaluation.
        adapt_ms: Mean wall-clock time per episode to resize its support images and adapt to them, with the calibration,
            in milliseconds. For a learner with a fixed embedding (`EmbeddingLearner`): the time to embed as many
            images alone, without the fit of the head, as the mean over all images of the data set.
        predict_ms: Mean wall-clock time per query image to resize it and predict its class, in milliseconds. For a
            learner with a fixed embedding: the mean time to embed one image alone.
        note: Restriction on how the accuracy may be compared: the learner's own batch-norm rule, where it is not the
            one that was asked for; otherwise empty.
        versions: Versions of Python and of the libraries that computed the result.
    """

    name: str
    accuracies: tuple[float, ...]
    protocol: ProtocolName
    way: int
    shot: Shot
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
        """Mean accuracy over the episodes, a fraction."""
        return float(np.mean(self.accuracies))

    @property
    def task(self) -> str:
        """Number of classes and of support images per class: `5-way 1-shot`, or `5-way 1-to-5-shot`."""
        return describe_task(self.way, self.shot)

    @property
    def ci(self) -> float:
        """Half the width of the 95% confidence interval of the mean, a fraction; infinite for a single episode."""
        return _half_width(np.asarray(self.accuracies))

    def as_dict(self) -> dict[str, Any]:
        """Return all values and those derived from them as `results.json` holds them."""
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
    """Difference in accuracy of two learners on the same episodes, from `compare`.

    Attributes:
        first: Name of the first learner.
        second: Name of the second learner.
        mean: Mean over the episodes of the first accuracy minus the second, a fraction.
        ci: Half the width of the 95% confidence interval of `mean`, a fraction.
    """

    first: str
    second: str
    mean: float
    ci: float


def compare(first: Evaluation, second: Evaluation) -> Difference:
    """Compare two learners in pairs, episode by episode.

    Both must have been evaluated on the same episodes: the same data set, way, shot, query, seed and number of
    episodes. Data sets are compared by their names alone. The protocols may differ: the episodes do not depend on them.
    The interval of the paired difference is usually much narrower than the two intervals suggest, because hard episodes
    are hard for both.

    Args:
        first: Evaluation of the first learner.
        second: Evaluation of the second learner.

    Returns:
        Mean of `first - second` over the episodes, with half the width of its 95% confidence interval, both fractions.
        The learners differ significantly at the 5% level if `abs(mean) > ci`.

    Raises:
        ValueError: If the two were evaluated on different episodes; names the settings that differ.
    """
    settings = ("way", "shot", "query", "seed", "dataset")
    differing = [name for name in settings if getattr(first, name) != getattr(second, name)]
    if len(first.accuracies) != len(second.accuracies):
        differing.append("episodes")
    if differing:
        raise ValueError(
            f"{first.name} and {second.name} were evaluated on different episodes (they differ in "
            f"{', '.join(differing)}); evaluate both with the same settings"
        )
    differences = np.subtract(first.accuracies, second.accuracies)
    return Difference(first.name, second.name, float(differences.mean()), _half_width(differences))


def evaluate(
    learner: MetaLearner,
    dataset: ImageDataset,
    *,
    way: int = 5,
    shot: Shot = 1,
    query: int = 15,
    episodes: int = 600,
    seed: int = 0,
    protocol: ProtocolName = "strict",
    allow_other_protocol: bool = False,
    calibration: Calibration | Literal["own"] | None = "own",
    on_episode: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure the few-shot accuracy of a learner on labelled images of classes that it was not trained on.

    Each episode samples `way` classes of the data set, and `shot` support and `query` query images of each. The learner
    adapts to the support set, and the accuracy of the classifier is measured on the query set. The result is the mean
    over episodes with a 95% confidence interval, as in Snell et al. (NeurIPS 2017) and most work since.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images, from `dfml.open_images` or `dfml.glyphs`. Images of another size than the learner's
            are resized.
        way: Number of classes per episode; default 5.
        shot: Number of support images per class; default 1. A pair (fewest, most) gives every class of an episode its
            own number out of this range; classes and query images are those of the episodes with `most` images each.
        query: Number of query images per class; default 15. They are never among the support images.
        episodes: Number of episodes; default 600. Episode i depends on `seed` and i alone, so it is the same for every
            learner and for any number of episodes.
        seed: Seed of the episodes; default 0.
        protocol: Batch-norm rule that the learner is expected to follow. `strict` (default): inductive, the prediction
            for one query image does not depend on the others. `paper`: transductive, batch-norm normalises the query
            images of an episode with their own statistics, as in the released code of PURER and FREE. The argument does
            not change the learner; it is compared with the rule that the learner was trained for (its attribute
            `protocol`). A learner whose rule is `any` uses no batch statistics and is accepted with both.
        allow_other_protocol: Accept a learner that was trained for the other rule. It is evaluated by its own rule, and
            the result's `note` says so. Default False.
        calibration: Calibration of every adapted classifier, such as `dfml.ICFIL()`. `own` (default): the one that
            belongs to the learner, if there is one; None: none.
        on_episode: Function that is called after every episode with the number of finished episodes.

    Returns:
        Accuracy of every episode, their mean and its confidence interval, timings, and all settings.

    Raises:
        ProtocolError: If the learner was trained for the other rule and `allow_other_protocol` is False.
        DataError: If the data set has fewer than `way` classes, or a class has fewer than `shot + query` images.
        LearnerError: If the calibration does not support this kind of learner.
        UsageError: If `episodes` is less than 1.
    """
    if episodes < 1:
        raise UsageError(f"expected at least one episode, found episodes={episodes}")
    require_evaluable(learner, dataset, way, shot, query, protocol, allow_other_protocol=allow_other_protocol)
    chosen = chosen_calibration(learner, calibration)
    follows_other_rule = learner.protocol not in (protocol, "any")
    started = time.perf_counter()
    score_episodes = (
        embedded_scores(learner, dataset)
        if isinstance(learner, EmbeddingLearner)
        else adapted_scores(learner, dataset, chosen)
    )
    accuracies, adapting, predicting = [], 0.0, 0.0
    episode_indices = [sample_evaluation_episode(dataset, way, shot, query, seed, index) for index in range(episodes)]
    for scores, adapt_seconds, predict_seconds in score_episodes(episode_indices, way):
        target = episode_labels(way, query, scores.device)
        accuracies.append((scores.argmax(dim=1) == target).double().mean().item())
        adapting, predicting = adapting + adapt_seconds, predicting + predict_seconds
        if on_episode:
            on_episode(len(accuracies))
    return Evaluation(
        name=f"{learner.name} + {calibration.name}" if isinstance(calibration, Calibration) else learner.name,
        accuracies=tuple(accuracies),
        protocol=protocol,
        way=way,
        shot=shot,
        query=query,
        seed=seed,
        dataset=dataset.name,
        seconds=time.perf_counter() - started,
        adapt_ms=1000.0 * adapting / episodes,
        predict_ms=1000.0 * predicting / (episodes * way * query),
        note=f"trained and adapted by the protocol {learner.protocol}" if follows_other_rule else "",
        versions=versions(),
    )


def require_evaluable(
    learner: MetaLearner,
    dataset: ImageDataset,
    way: int,
    shot: Shot,
    query: int,
    protocol: ProtocolName,
    *,
    allow_other_protocol: bool = False,
) -> None:
    """Check a learner and a data set, so that a command of many evaluations fails before the first of them starts.

    It checks, in this order: that the learner was trained for the batch-norm rule of the evaluation, that the data set
    has at least `way` classes, and that every class has at least `shot + query` images. It does not check the number of
    episodes and the calibration, which `evaluate` does.

    Args:
        learner: Learner to evaluate.
        dataset: Labelled images.
        way: Number of classes per episode.
        shot: Number of support images per class, or their range; see `Shot`.
        query: Number of query images per class.
        protocol: Batch-norm rule that is asked for; see `evaluate`.
        allow_other_protocol: Accept a learner that was trained for the other rule.

    Raises:
        ProtocolError: If the learner was trained for the other rule and `allow_other_protocol` is False.
        DataError: If the data set has fewer than `way` classes, or a class has fewer than `shot + query` images.
    """
    if learner.protocol not in (protocol, "any") and not allow_other_protocol:
        raise ProtocolError(
            f"{learner.name} was trained for the protocol {learner.protocol!r}, not {protocol!r}; evaluate it with "
            f"--protocol {learner.protocol}, or train a learner with --protocol {protocol}"
        )
    counts = torch.bincount(dataset.labels).tolist()
    check_enough_images(dataset.name, dict(zip(dataset.classes, counts, strict=True)), way, shot, query)


def _half_width(values: np.ndarray) -> float:
    return float(_Z * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def versions() -> dict[str, str]:
    """Return the versions of Python, dfml, torch, timm and numpy, which are part of every result."""
    names = ("dfml", "torch", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
