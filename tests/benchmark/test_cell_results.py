"""The rows of the tables: means over seeds, costs, and why something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfml.benchmark.cell_process import read_evaluation
from dfml.benchmark.cell_results import read_results
from tests.benchmark.conftest import Finished
from tests.benchmark.small import plan


def test_a_row_is_the_mean_over_its_seeds(finished: Finished) -> None:
    jobs = [job for job in finished.plan.jobs.values() if job.cell.row == "purer"]
    for number, group in enumerate(finished.results.groups):
        row = group.rows[0]
        own = [read_evaluation(job.measurements[number][1]).evaluation for job in jobs]
        mean = np.mean([each.accuracies for each in own], axis=0)
        assert row.evaluations["glyphs"].accuracies == pytest.approx(mean.tolist())
        assert row.seeds == {0: own[0].accuracy, 1: own[1].accuracy}
        assert row.deviation == pytest.approx(abs(own[0].accuracy - own[1].accuracy) / 2**0.5)
        assert row.notes == ()


def test_rows_without_accuracies_say_why(finished: Finished) -> None:
    rows = {row.name: row for row in finished.results.groups[0].rows}
    assert list(rows) == ["purer", "zoo_embedding", "average", "failing"]
    assert rows["failing"].evaluations == {}
    assert rows["failing"].notes == ("the disk is full",)
    assert rows["average"].deviation is None
    assert [row.name for row in finished.results.groups[0].measured] == ["purer", "zoo_embedding", "average"]


def test_curves_images_and_members_are_found(finished: Finished) -> None:
    found = finished.results
    assert {name: list(curves) for name, curves in found.curves.items()} == {"letters": ["purer"]}
    assert list(found.curves["letters"]["purer"]) == [1, 2]
    assert [title for title, _, _ in found.images] == ["Recovered images: purer on letters"]
    assert all(path.exists() for _, _, path in found.images)
    assert [len(members) for members in found.zoos.values()] == [2]


def test_before_the_first_cell_nothing_is_measured(tmp_path: Path) -> None:
    made = plan(tmp_path / "out", zoos={"letters": {"arch": ["conv4", "conv4_64"]}})
    found = read_results(made, {})
    notes = {row.name: row.notes for row in found.groups[0].rows}
    assert notes["purer"] == ("not measured yet",)
    assert "averaging needs members" in notes["average"][0]
    assert found.zoos == found.curves == {}
