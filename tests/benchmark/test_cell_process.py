"""What the process of a cell writes: the run, the costs of the training, and one file per evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from dfml.benchmark.cell_process import TRAINED, read_evaluation
from dfml.evaluation.protocol import evaluate
from dfml.learners import MetaLearner
from dfml.zoo import Zoo
from tests.benchmark.conftest import Finished
from tests.benchmark.small import STEPS


def test_an_evaluation_is_that_of_the_saved_learner(finished: Finished) -> None:
    for row in ("purer", "zoo_embedding"):
        job = next(job for job in finished.plan.jobs.values() if job.cell.row == row)
        learner = MetaLearner.from_pretrained(job.folder / "run")
        data = job.datasets["glyphs"].open("test", 16)
        for measurement, path in job.measurements:
            found = read_evaluation(path).evaluation
            expected = evaluate(learner, data, way=measurement.way, shot=measurement.shot, query=3, episodes=6)
            assert found.accuracies == tuple(round(value, 6) for value in expected.accuracies)
            assert (found.shot, found.dataset, found.seed) == (measurement.shot, "glyphs/test", 0)


def test_the_first_evaluation_of_the_first_seed_has_a_curve(finished: Finished) -> None:
    curves = {
        (job.cell.row, job.cell.seed, number): list(read_evaluation(path).curve)
        for job in finished.plan.jobs.values()
        if job.is_finished
        for number, (_, path) in enumerate(job.measurements)
    }
    assert {key for key, curve in curves.items() if curve} == {("purer", 0, 0)}
    assert curves["purer", 0, 0] == [1, 2]


def test_costs_of_the_training(finished: Finished) -> None:
    found = {
        job.cell.row: json.loads((job.folder / TRAINED).read_text())
        for job in finished.plan.jobs.values()
        if job.is_finished
    }
    job = next(job for job in finished.plan.jobs.values() if job.cell.row == "purer")
    weights = (job.folder / "run" / "model.safetensors").stat().st_size
    assert 0.8 * weights < found["purer"]["stored_bytes"] <= weights
    zoo: Path = job.zoo_paths[0]
    members = Zoo.open(zoo)
    total = sum(v.numel() * v.element_size() for m in members.classifiers() for v in m.state_dict().values())
    assert found["zoo_embedding"]["stored_bytes"] == total
    assert found["purer"]["iterations"] == STEPS["iterations"]
    assert found["purer"]["seconds"] > 0
    assert found["purer"]["peak_memory"]["resident"] > 10**7
    assert job.images.exists()
