"""Plain values of `results.json` are those of the evaluations."""

from __future__ import annotations

import pytest

from dfml.report.results import curve_values, results_values
from tests.report.evaluations import evaluation


def test_results_are_fractions_by_method() -> None:
    evaluations = [evaluation("purer", 0.6), evaluation("random_init", 0.3)]
    values = results_values(evaluations, {"purer": 60.0})
    assert values["methods"]["purer"]["accuracy"] == evaluations[0].accuracy
    assert values["methods"]["purer"]["ci"] == evaluations[0].ci
    assert values["methods"]["purer"]["seconds"] == 60.0
    assert values["methods"]["random_init"]["seconds"] == 0.0
    assert values["methods"]["purer"]["evaluation_seconds"] == 1.25
    assert values["protocol"] == "strict"
    assert values["seed"] == 0
    assert values["episodes"] == 40
    assert values["pairs"][0]["mean"] == pytest.approx(evaluations[0].accuracy - evaluations[1].accuracy)
    assert results_values(evaluations)["methods"]["purer"]["seconds"] == 1.25


def test_curve_is_by_meta_iteration() -> None:
    point = evaluation(mean=0.4)
    assert curve_values({50: point}) == {"50": {"accuracy": point.accuracy, "ci": point.ci, "episodes": 40}}
