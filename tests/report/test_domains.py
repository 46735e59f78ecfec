"""One row per learner, one column per data set, and their mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfml.evaluation.protocol import Evaluation
from dfml.report.domains import domain_differences, domain_means, domains_table
from tests.report.evaluations import evaluation


def _constant(name: str, dataset: str, accuracy: float) -> Evaluation:
    return replace(evaluation(name), dataset=dataset, accuracies=(accuracy,) * 4)


EVALUATIONS = [
    _constant("purer", "cub/test", 0.5),
    _constant("free", "cub/test", 0.25),
    _constant("purer", "cifar-fs/test", 0.7),
    _constant("free", "cifar-fs/test", 0.75),
]


def test_every_data_set_has_a_column_and_the_mean_is_last() -> None:
    table = domains_table(EVALUATIONS)
    assert table.headings == ("method", "cub/test", "cifar-fs/test", "mean")
    assert table.rows == (
        ("purer", "50.00 ± 0.00", "70.00 ± 0.00", "60.00 ± 0.00"),
        ("free", "25.00 ± 0.00", "75.00 ± 0.00", "50.00 ± 0.00"),
    )


def test_a_single_data_set_has_no_mean() -> None:
    assert domains_table(EVALUATIONS[:2]).headings == ("method", "cub/test")
    assert domain_differences(EVALUATIONS[:2], [("purer", "free")]).rows == (("purer - free", "+25.00 ± 0.00"),)


def test_differences_are_by_data_set_and_of_the_mean() -> None:
    table = domain_differences(EVALUATIONS, [("purer", "free")])
    assert table.rows == (("purer - free", "+25.00 ± 0.00", "-5.00 ± 0.00", "+10.00 ± 0.00"),)


def test_means_are_by_learner() -> None:
    assert [(each.name, each.accuracy) for each in domain_means(EVALUATIONS)] == [
        ("purer", pytest.approx(0.6)),
        ("free", pytest.approx(0.5)),
    ]
