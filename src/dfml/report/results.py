"""Plain values of a `results.json` from evaluations; accuracies and intervals are fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dfml.evaluation.protocol import Evaluation
from dfml.evaluation.runner import LearnerEvaluation
from dfml.report.domains import domain_means
from dfml.report.table import compare_all

_COMMON = ("dataset", "protocol", "way", "shot", "query", "episodes", "seed", "versions")


def results_values(
    evaluations: Sequence[Evaluation], training_seconds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Collect `{"methods": {NAME: {"accuracy", "ci", "seconds", ...}}, "pairs": [...]}`, protocol, seed and versions.

    Args:
        evaluations: At least one evaluation, all on the same episodes.
        training_seconds: Method -> duration of its training. If given, `seconds` is the duration of the training and
            `evaluation_seconds` that of the evaluation; if None, `seconds` is the duration of the evaluation.
    """
    methods: dict[str, dict[str, Any]] = {}
    shared: dict[str, Any] = {}
    for each in evaluations:
        values = each.as_dict()
        shared = {name: values.pop(name) for name in _COMMON}
        if training_seconds is not None:
            values["evaluation_seconds"] = values["seconds"]
            values["seconds"] = training_seconds.get(each.name, 0.0)
        methods[values.pop("name")] = values
    return {"methods": methods, **shared, "pairs": [vars(pair) for pair in compare_all(evaluations)]}


def curve_values(curve: Mapping[int, Evaluation]) -> dict[str, dict[str, float]]:
    """Map each meta-iteration of a learning curve to accuracy, 95% confidence interval and number of episodes."""
    return {
        str(iteration): {"accuracy": each.accuracy, "ci": each.ci, "episodes": len(each.accuracies)}
        for iteration, each in curve.items()
    }


def evaluated_values(evaluated: Sequence[LearnerEvaluation]) -> dict[str, Any]:
    """Return `results_values` of learners, with the accuracies of a run's snapshots where these were evaluated.

    With several data sets, these are the values of their mean; `datasets` has those of each.

    Args:
        evaluated: Results of every learner on every data set, at least one.
    """
    evaluations = [each.evaluation for each in evaluated]
    names = list(dict.fromkeys(each.dataset for each in evaluations))
    if len(names) > 1:
        parts = {name: [each for each in evaluated if each.evaluation.dataset == name] for name in names}
        datasets = {name: evaluated_values(part) for name, part in parts.items()}
        return {**results_values(domain_means(evaluations)), "datasets": datasets}
    values = results_values(evaluations)
    for each in evaluated:
        if each.curve:
            values["methods"][each.evaluation.name]["snapshots"] = curve_values(each.curve)
    return values
