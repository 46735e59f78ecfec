"""Results of a benchmark, read from the files of its cells: one row per method in every scenario and task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dfml.benchmark.cell_process import TRAINED, CellJob, read_evaluation
from dfml.benchmark.cells import Measurement, make_cell, measurements, rows_of, seeds_of, shots_of
from dfml.benchmark.preparation import Plan
from dfml.benchmark.suite import MethodSpec, ScenarioSpec, TaskSpec
from dfml.evaluation.combination import mean_over_datasets, mean_over_seeds
from dfml.evaluation.protocol import Evaluation
from dfml.zoo.formats import MemberConfig
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class Row:
    """Results of one method in one scenario and task: one row of a table.

    Attributes:
        name: Name of the row.
        evaluations: Data set -> mean of the evaluations over training seeds; empty if there are none.
        seeds: Training seed -> mean accuracy over the data sets, a fraction.
        seconds: Mean duration of a training; 0 without one.
        peak_memory: Largest memory of a training process, in bytes, resident and GPU memory added; 0 without one.
        stored_bytes: Size of the weights that the learner needs at test time, in bytes; 0 without a training.
        notes: Why results are missing, and notes of the evaluations.
    """

    name: str
    evaluations: dict[str, Evaluation]
    seeds: dict[int, float]
    seconds: float
    peak_memory: int
    stored_bytes: int
    notes: tuple[str, ...]

    @property
    def mean(self) -> Evaluation:
        """The mean over the data sets, of which there must be at least one."""
        return mean_over_datasets(list(self.evaluations.values()))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of `seeds`, a fraction; None for fewer than two seeds."""
        return float(np.std(list(self.seeds.values()), ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Group:
    """The rows of one scenario and one task.

    Attributes:
        scenario: Name of the scenario.
        task: The task.
        rows: One row per method of the scenario, also without results.
    """

    scenario: str
    task: TaskSpec
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Such as `MH: 5-way 1-shot`."""
        return f"{self.scenario}: {self.task.name}"

    @property
    def measured(self) -> tuple[Row, ...]:
        """Rows with accuracies."""
        return tuple(row for row in self.rows if row.evaluations)


@dataclass(frozen=True)
class BenchmarkResults:
    """All results of a benchmark.

    Attributes:
        groups: One per scenario and task, in the order of the suite.
        curves: Scenario -> row -> meta-iteration -> evaluation.
        zoos: Zoo -> configurations of its members.
        images: Title, caption and file of every contact sheet of recovered images.
        failures: Title of a cell -> why it failed.
    """

    groups: tuple[Group, ...]
    curves: dict[str, dict[str, dict[int, Evaluation]]]
    zoos: dict[str, tuple[MemberConfig, ...]]
    images: tuple[tuple[str, str, Path], ...]
    failures: dict[str, str]


def read_results(plan: Plan, failures: Mapping[str, str]) -> BenchmarkResults:
    """Read all results that a benchmark has so far.

    Args:
        plan: Its zoos and cells.
        failures: Key of a cell -> why it failed.
    """
    suite = plan.options.suite
    groups = tuple(
        Group(name, task, tuple(_row(plan, failures, scenario, task, *row) for row in rows_of(suite, scenario).items()))
        for name, scenario in suite.scenarios.items()
        for task in suite.tasks
    )
    return BenchmarkResults(
        groups,
        {name: curves for name, scenario in suite.scenarios.items() if (curves := _curves(plan, scenario))},
        {name: configs for name, path in plan.zoo_paths.items() if (configs := _members(path))},
        tuple(_images(plan)),
        {plan.jobs[key].title: reason for key, reason in failures.items()},
    )


def _row(
    plan: Plan, failures: Mapping[str, str], scenario: ScenarioSpec, task: TaskSpec, row: str, spec: MethodSpec
) -> Row:
    suite = plan.options.suite
    found: dict[int, tuple[dict[str, Evaluation], dict[str, Any]]] = {}
    notes: dict[str, None] = {}
    seeds = seeds_of(suite, spec)
    for seed in seeds:
        key = _key(plan, scenario, row, spec, task.most if spec.per_shot else None, seed)
        if key in plan.impossible:
            notes[plan.impossible[key]] = None
            continue
        measured = _read(plan.jobs[key], scenario, task)
        if measured is None:
            reason = failures.get(key, "not measured yet")
            notes[f"seed {seed}: {reason}" if len(seeds) > 1 else reason] = None
        else:
            found[seed] = measured
    trained = [values for _, values in found.values()]
    evaluations = {
        dataset: replace(mean_over_seeds([own[dataset] for own, _ in found.values()]), name=row)
        for dataset in (scenario.tests if found else ())
    }
    notes |= dict.fromkeys(each.note for each in evaluations.values() if each.note)
    return Row(
        row,
        evaluations,
        {seed: mean_over_datasets(list(own.values())).accuracy for seed, (own, _) in found.items()},
        float(np.mean([values["seconds"] for values in trained])) if trained else 0.0,
        max((sum(values["peak_memory"].values()) for values in trained), default=0),
        max((values["stored_bytes"] for values in trained), default=0),
        tuple(notes),
    )


def _key(plan: Plan, scenario: ScenarioSpec, row: str, spec: MethodSpec, shot: int | None, seed: int) -> str:
    return make_cell(plan.options.suite, scenario, row, spec, shot, seed, plan.zoo_digests).key


def _read(job: CellJob, scenario: ScenarioSpec, task: TaskSpec) -> tuple[dict[str, Evaluation], dict[str, Any]] | None:
    """Evaluations by data set, and the costs of the training; None if a file is missing."""
    files = dict(job.measurements)
    try:
        trained = json.loads((job.folder / TRAINED).read_text(encoding="utf-8"))
        evaluations = {
            dataset: read_evaluation(files[Measurement(dataset, task.way, task.shot)]).evaluation
            for dataset in scenario.tests
        }
    except FileNotFoundError:
        return None
    return evaluations, trained


def _curves(plan: Plan, scenario: ScenarioSpec) -> dict[str, dict[int, Evaluation]]:
    """Learning curves of the first seed, on the first data set and task that each learner is evaluated on."""
    suite = plan.options.suite
    curves = {}
    for row, spec in rows_of(suite, scenario).items():
        shot = shots_of(suite, spec)[0]
        job = plan.jobs.get(_key(plan, scenario, row, spec, shot, seeds_of(suite, spec)[0]))
        wanted = measurements(suite, scenario, spec, shot)[:1]
        path = dict(job.measurements)[wanted[0]] if job and wanted else None
        if path is not None and path.exists() and (curve := read_evaluation(path).curve):
            curves[row] = curve
    return curves


def _members(path: Path) -> tuple[MemberConfig, ...]:
    if not path.is_dir() or not any(path.iterdir()):
        return ()
    return tuple(config for config in Zoo.open(path).member_configs if config is not None)


def _images(plan: Plan) -> list[tuple[str, str, Path]]:
    """Title, caption and file of the contact sheets: those of the first seed, one per method and zoo."""
    found: dict[tuple[str, tuple[str, ...]], tuple[str, str, Path]] = {}
    suite = plan.options.suite
    for job in plan.jobs.values():
        trained, cell = job.folder / TRAINED, job.cell
        if cell.seed != seeds_of(suite, suite.methods[cell.row])[0] or not trained.exists():
            continue
        caption = json.loads(trained.read_text(encoding="utf-8"))["images_caption"]
        if caption:
            title = f"Recovered images: {cell.row} on {' + '.join(cell.zoos)}"
            found.setdefault((cell.row, cell.zoos), (title, caption, job.images))
    return list(found.values())
