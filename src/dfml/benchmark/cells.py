"""Cells of a benchmark: a cell is one training (a method, its zoos, a seed) with all evaluations of its learner.

The folder of a zoo or a cell has in its name a digest of the settings that it depends on. A benchmark that is resumed
after a change of its suite therefore computes only what is new, and reuses no result of other settings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfml.benchmark.suite import MethodSpec, ScenarioSpec, Suite, TaskSpec
from dfml.evaluation.episodes import Shot
from dfml.methods import find_method
from dfml.settings import build_config, override
from dfml.training.loop import TrainingConfig

_DIGITS = 10  # hexadecimal digits of a digest in a file name


@dataclass(frozen=True)
class Cell:
    """The training of a cell.

    Attributes:
        row: Name of the method's row in the tables.
        method: Name of the method, or `MODULE:CLASS`.
        settings: All settings of the method, as plain values.
        zoos: Names of the zoos that it learns from.
        zoo_digests: For each zoo, the digest of its entry in the suite or, of an existing zoo, of its path.
        seed: Seed of the training.
        shot: Support images per class that it is trained for (`MethodSpec.per_shot`); None: one training for all.
    """

    row: str
    method: str
    settings: dict[str, Any]
    zoos: tuple[str, ...]
    zoo_digests: tuple[str, ...]
    seed: int
    shot: int | None

    @property
    def key(self) -> str:
        """Name of its folder: row, zoos, seed and a digest of method, settings and zoos."""
        digest = digest_of([self.method, self.settings, self.zoo_digests])
        shot = [] if self.shot is None else [f"{self.shot}-shot"]
        return slug(*(self.row, *self.zoos, *shot, f"seed-{self.seed}", digest))

    @property
    def title(self) -> str:
        """Description for messages: `purer (5-shot) on letters, seed 0`."""
        shot = "" if self.shot is None else f" ({self.shot}-shot)"
        return f"{self.row}{shot} on {' + '.join(self.zoos)}, seed {self.seed}"

    def config(self) -> TrainingConfig:
        """The typed settings of the method."""
        kind = find_method(self.method)
        return build_config(kind.config_type, self.settings, section=kind.name)


@dataclass(frozen=True)
class Measurement:
    """One evaluation of a learner: a data set and the kind of its episodes.

    Attributes:
        dataset: Name of the data set in the suite.
        way: Classes per episode.
        shot: Support images per class, or their range (FEWEST, MOST).
    """

    dataset: str
    way: int
    shot: Shot

    @property
    def name(self) -> str:
        """First part of the name of its file, such as `glyphs-5-way-1-shot`."""
        shots = self.shot if isinstance(self.shot, int) else f"{self.shot[0]}-to-{self.shot[1]}"
        return slug(self.dataset, f"{self.way}-way", f"{shots}-shot")


@dataclass(frozen=True)
class PlannedCell:
    """A training and the evaluations of its learner.

    Attributes:
        cell: The training.
        measurements: Its evaluations.
    """

    cell: Cell
    measurements: tuple[Measurement, ...]


def plan_cells(suite: Suite, zoo_digests: Mapping[str, str]) -> list[PlannedCell]:
    """List all trainings of a suite with their evaluations; a training that several scenarios share is listed once.

    Args:
        suite: The suite.
        zoo_digests: Name of each zoo -> digest; see `Cell.zoo_digests`.

    Returns:
        Cells in the order of scenarios, methods, shots and seeds.

    Raises:
        UsageError: If a method or preset is unknown.
        ConfigError: If a setting is unknown or has a wrong value.
    """
    cells: dict[str, Cell] = {}
    measured: dict[str, dict[Measurement, None]] = {}
    for scenario in suite.scenarios.values():
        for row, spec in rows_of(suite, scenario).items():
            for shot in shots_of(suite, spec):
                for seed in seeds_of(suite, spec):
                    cell = make_cell(suite, scenario, row, spec, shot, seed, zoo_digests)
                    cells.setdefault(cell.key, cell)
                    wanted = measured.setdefault(cell.key, {})
                    wanted.update(dict.fromkeys(measurements(suite, scenario, spec, shot)))
    return [PlannedCell(cell, tuple(measured[key])) for key, cell in cells.items()]


def rows_of(suite: Suite, scenario: ScenarioSpec) -> dict[str, MethodSpec]:
    """The methods of a scenario, by the names of their rows."""
    return {name: suite.methods[name] for name in scenario.methods or suite.methods}


def shots_of(suite: Suite, spec: MethodSpec) -> tuple[int | None, ...]:
    """Shots that a method is trained for, one training each; `(None,)`: one training for all tasks."""
    return tuple(dict.fromkeys(task.most for task in suite.tasks)) if spec.per_shot else (None,)


def seeds_of(suite: Suite, spec: MethodSpec) -> tuple[int, ...]:
    """Seeds of a method's trainings."""
    return spec.seeds or suite.seeds


def tasks_of(suite: Suite, spec: MethodSpec, shot: int | None) -> tuple[TaskSpec, ...]:
    """Tasks that the learner of one training is evaluated on."""
    return tuple(task for task in suite.tasks if not spec.per_shot or task.most == shot)


def make_cell(
    suite: Suite,
    scenario: ScenarioSpec,
    row: str,
    spec: MethodSpec,
    shot: int | None,
    seed: int,
    zoo_digests: Mapping[str, str],
) -> Cell:
    """Make one cell.

    Of its settings, later ones override earlier ones: defaults of the method, first task and protocol of the suite,
    preset, `settings` of the suite, seed (and shot, if the method is trained per shot).

    Args:
        suite: The suite.
        scenario: One of its scenarios.
        row: Name of the method's row.
        spec: The method's entry in the suite.
        shot: One of `shots_of`.
        seed: One of `seeds_of`.
        zoo_digests: Name of each zoo -> digest; see `Cell.zoo_digests`.

    Raises:
        UsageError: If the method or its preset is unknown.
        ConfigError: If a setting is unknown or has a wrong value.
    """
    name = spec.method or row
    kind = find_method(name)
    first = suite.tasks[0]
    common = {"way": first.way, "shot": shot or first.most, "protocol": suite.protocol}
    forced = {"seed": seed, **({"shot": shot} if shot else {})}
    preset = kind.preset_settings(spec.preset)
    config = override(kind.config_type(), common, preset, spec.settings, forced, section=kind.name)
    zoos = (spec.zoo,) if spec.zoo else scenario.zoos
    digests = tuple(zoo_digests[zoo] for zoo in zoos)
    return Cell(row, name, config.model_dump(mode="json"), zoos, digests, seed, shot)


def measurements(suite: Suite, scenario: ScenarioSpec, spec: MethodSpec, shot: int | None) -> list[Measurement]:
    """List the evaluations of one training's learner in a scenario: every task on every data set, in this order."""
    return [
        Measurement(dataset, task.way, task.shot) for task in tasks_of(suite, spec, shot) for dataset in scenario.tests
    ]


def digest_of(values: Any) -> str:
    """First ten hexadecimal digits of the SHA-256 of plain values (as JSON)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def slug(*parts: str) -> str:
    """Join texts with hyphens to a file name that is valid on every system."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.") or "x" for part in parts)
