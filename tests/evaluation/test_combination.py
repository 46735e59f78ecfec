"""Means of evaluations over data sets and over seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dfml.errors import UsageError
from dfml.evaluation.combination import mean_over_datasets, mean_over_seeds
from dfml.evaluation.protocol import compare
from tests.report.evaluations import evaluation


def test_the_interval_of_a_mean_over_data_sets_is_that_of_independent_accuracies() -> None:
    parts = [
        replace(evaluation("a", mean, episodes=4000, seed=seed), seed=0, dataset=f"data {seed}")
        for seed, mean in enumerate((0.4, 0.5, 0.9))
    ]
    mean = mean_over_datasets(parts)
    assert mean.accuracy == pytest.approx(np.mean([part.accuracy for part in parts]))
    assert mean.ci == pytest.approx(math.sqrt(sum(part.ci**2 for part in parts)) / 3, rel=0.1)
    assert mean.dataset == "mean of data 0, data 1, data 2"
    assert mean.seconds == pytest.approx(3 * 1.25)


def test_means_over_seeds_are_taken_episode_by_episode() -> None:
    one, other = replace(evaluation(), accuracies=(0.0, 1.0)), replace(evaluation(), accuracies=(0.5, 0.5))
    assert mean_over_seeds([one, other]).accuracies == (0.25, 0.75)
    assert mean_over_seeds([one]) == one
    assert compare(mean_over_seeds([one, other]), one).mean == pytest.approx(0.0)


def test_evaluations_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match="same shot, found 1, 5"):
        mean_over_datasets([evaluation(), replace(evaluation(), shot=5)])
    with pytest.raises(UsageError, match="same episodes, found 40, 50"):
        mean_over_datasets([evaluation(), evaluation(episodes=50)])
    with pytest.raises(UsageError, match="on one data set, found cub, glyphs/test"):
        mean_over_seeds([evaluation(), replace(evaluation(), dataset="cub")])
