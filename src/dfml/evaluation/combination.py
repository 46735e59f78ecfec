"""Evaluations that belong together, as one: the mean over several data sets, or over several trainings (seeds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dfml.errors import UsageError
from dfml.evaluation.protocol import Evaluation


def mean_over_datasets(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Average the evaluations of one learner on several data sets, each of which has the same weight.

    Episode i of the result is the mean of the episodes i. Episodes of different data sets are independent, so the
    result's interval is that of the mean of independent accuracies, and results of several learners can be compared in
    pairs.

    Args:
        evaluations: One per data set, at least one, all with the same way, shot, query, seed and number of episodes.

    Raises:
        UsageError: If the evaluations differ in one of these.
    """
    names = ", ".join(each.dataset for each in evaluations)
    return _mean(evaluations, f"mean of {names}" if len(evaluations) > 1 else names)


def mean_over_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Average the evaluations of several trainings of one method, all on the same episodes.

    Episode i of the result is the mean of the episodes i. The result's interval says how much the mean would change
    with other episodes; it does not say how much it would change with other seeds of the training, for which see the
    standard deviation of the trainings' accuracies.

    Args:
        evaluations: One per training, at least one, all on the same episodes of one data set.

    Raises:
        UsageError: If the evaluations are on different episodes.
    """
    if len({each.dataset for each in evaluations}) > 1:
        names = ", ".join(sorted({each.dataset for each in evaluations}))
        raise UsageError(f"expected evaluations on one data set, found {names}; average them over data sets instead")
    return _mean(evaluations, evaluations[0].dataset)


def _mean(evaluations: Sequence[Evaluation], dataset: str) -> Evaluation:
    first = evaluations[0]
    for name in ("way", "shot", "query", "seed", "episodes"):
        values = [len(each.accuracies) if name == "episodes" else getattr(each, name) for each in evaluations]
        if len(set(values)) > 1:
            raise UsageError(f"expected evaluations with the same {name}, found {', '.join(map(str, values))}")
    accuracies = np.mean([each.accuracies for each in evaluations], axis=0)
    return replace(
        first,
        accuracies=tuple(accuracies.tolist()),
        dataset=dataset,
        seconds=sum(each.seconds for each in evaluations),
        adapt_ms=float(np.mean([each.adapt_ms for each in evaluations])),
        predict_ms=float(np.mean([each.predict_ms for each in evaluations])),
        note="; ".join(dict.fromkeys(each.note for each in evaluations if each.note)),
    )
