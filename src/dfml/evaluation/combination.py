"""Means of evaluations: over several data sets, or over several trainings (seeds) of one method.

The accuracy of episode i of a mean is the mean accuracy of the episodes i. `seconds` are summed, `adapt_ms` and
`predict_ms` averaged, notes joined; all else is as in the first evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dfml.errors import UsageError
from dfml.evaluation.protocol import Evaluation


def mean_over_datasets(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Average the evaluations of one learner on several data sets, each of which has the same weight.

    Episodes of different data sets are independent, so the result's interval is that of the mean of independent
    accuracies. Results of several learners can be compared in pairs.

    Args:
        evaluations: One per data set, at least one, all with the same way, shot, query, seed and number of episodes.

    Raises:
        UsageError: If the evaluations differ in one of these.
    """
    names = ", ".join(each.dataset for each in evaluations)
    return _mean(evaluations, f"mean of {names}" if len(evaluations) > 1 else names)


def mean_over_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Average the evaluations of several trainings of one method, all on the same episodes.

    The result's interval says how much the mean would change with other episodes. How much it would change with other
    trainings is another question: see the standard deviation of their accuracies.

    Args:
        evaluations: One per training, at least one, all on the same episodes of one data set.

    Raises:
        UsageError: If the evaluations differ in data set, way, shot, query, seed (of the episodes) or their number.
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
