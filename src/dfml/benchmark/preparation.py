"""Checks and plans a benchmark, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dfml.benchmark.cell_process import CellJob, EvaluationSettings, ZooJob, measurement_file
from dfml.benchmark.cells import Cell, Measurement, PlannedCell, digest_of, plan_cells, seeds_of
from dfml.benchmark.data_catalog import LocatedDataset, locate
from dfml.benchmark.feasibility import learner_size, obstacle, plan_zoo, stand_in, together
from dfml.benchmark.suite import DatasetSpec, Suite, ZooSpec
from dfml.errors import ConfigError, DfmlError, UsageError
from dfml.evaluation.episodes import check_enough_images
from dfml.pretraining.recipes import recipe_by_name
from dfml.pretraining.record import dataset_record
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class BenchmarkOptions:
    """A suite to be measured, with the options of the command.

    Attributes:
        name: Name or path of the suite, for messages.
        suite: The suite.
        folder: Folder that relative paths in the suite are relative to.
        out: Folder of the benchmark.
        data: Data set -> path, from the command line.
        zoos: Zoo -> path, from the command line.
        device: Device to train on: `auto`, or a name that `torch.device` takes.
        threads: Number of CPU threads of each cell.
        cores: Number of CPU threads while a zoo is built.
    """

    name: str
    suite: Suite
    folder: Path
    out: Path
    data: Mapping[str, Path]
    zoos: Mapping[str, Path]
    device: str = "auto"
    threads: int = 1
    cores: int = 1


@dataclass(frozen=True)
class Plan:
    """All work of a benchmark.

    Attributes:
        options: The suite and the options.
        zoo_jobs: Zoos to build, by name, each with its number of members.
        zoo_paths: Name -> folder, of zoos that exist or will be built.
        zoo_digests: Name of a zoo -> digest; see `Cell.zoo_digests`.
        jobs: Jobs of the possible cells, by `Cell.key`.
        impossible: Key of a cell whose method cannot learn from its zoo -> why.
        cells: All cells, the impossible ones included.
    """

    options: BenchmarkOptions
    zoo_jobs: dict[str, tuple[ZooJob, int]]
    zoo_paths: dict[str, Path]
    zoo_digests: dict[str, str]
    jobs: dict[str, CellJob]
    impossible: dict[str, str]
    cells: tuple[PlannedCell, ...]


def prepare(options: BenchmarkOptions) -> Plan:
    """Check a suite, find its data, and plan its work. Test images are decoded and cached; nothing else is computed.

    Raises:
        ConfigError: If a setting is wrong, data are missing, lack the test split or have too few images for the
            episodes, or a method that is not marked `optional` cannot learn from its zoo.
        DataError: If test images cannot be decoded.
    """
    suite = options.suite
    with _named(options.name):
        _check_given("zoo", options.zoos, set(suite.zoos))
        used = [name for spec in suite.zoos.values() for name, _ in spec.sized_data]
        tested = [name for scenario in suite.scenarios.values() for name in scenario.tests]
        names = dict.fromkeys([*used, *tested])
        _check_given("data set", options.data, {*names})
        specs = {name: suite.datasets.get(name, DatasetSpec()) for name in names}
        datasets = {name: locate(name, spec, options.data) for name, spec in specs.items()}
        _check_room(suite, datasets)
        zoo_digests = {name: _zoo_digest(options, name, spec) for name, spec in suite.zoos.items()}
        cells = plan_cells(suite, zoo_digests)
        zoos, zoo_jobs, zoo_paths = _zoos(options, datasets, zoo_digests)
        impossible = _obstacles(suite, cells, zoos)
        possible = [planned for planned in cells if planned.cell.key not in impossible]
        sizes = {
            planned.cell.key: learner_size(planned.cell, together([zoos[zoo] for zoo in planned.cell.zoos]))
            for planned in possible
        }
    digests: dict[tuple[str, int], str] = {}
    for planned in possible:
        for measurement in planned.measurements:
            key = measurement.dataset, sizes[planned.cell.key]
            if key not in digests:
                opened = datasets[key[0]].open(suite.test_split, key[1])
                digests[key] = dataset_record(opened)["sha256"]
    jobs = {
        planned.cell.key: _cell_job(options, planned, sizes[planned.cell.key], datasets, zoo_paths, digests)
        for planned in possible
    }
    return Plan(options, zoo_jobs, zoo_paths, zoo_digests, jobs, impossible, tuple(cells))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Raise every `DfmlError` as a `ConfigError` (wrong usage) that begins with the name of the suite."""
    try:
        yield
    except DfmlError as error:
        text = str(error)
        raise ConfigError(text if text.startswith("suite ") else f"suite {name}: {text}") from error


def _check_given(kind: str, given: Mapping[str, Path], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"it has no {kind} {name!r}; its names are {', '.join(sorted(known)) or 'none'}")


def _check_room(suite: Suite, datasets: Mapping[str, LocatedDataset]) -> None:
    for scenario in suite.scenarios.values():
        for name in scenario.tests:
            sizes = datasets[name].class_sizes(suite.test_split)
            for task in suite.tasks:
                check_enough_images(f"{name}/{suite.test_split}", sizes, task.way, task.shot, suite.query)


def _zoo_digest(options: BenchmarkOptions, name: str, spec: ZooSpec) -> str:
    if spec.data:
        return digest_of(spec.model_dump(mode="json"))
    return digest_of([str(_existing(options, name, spec))])


def _existing(options: BenchmarkOptions, name: str, spec: ZooSpec) -> Path | None:
    """Folder of a zoo that is not built: from the command line, else from the suite."""
    if name in options.zoos:
        return options.zoos[name].resolve()
    return (options.folder / spec.path).resolve() if spec.path else None


def _zoos(
    options: BenchmarkOptions, datasets: Mapping[str, LocatedDataset], digests: Mapping[str, str]
) -> tuple[dict[str, Zoo], dict[str, tuple[ZooJob, int]], dict[str, Path]]:
    """Zoos or their stand-ins, the jobs that build them, and their folders; without zoos that the user did not give."""
    zoos, jobs, paths = dict[str, Zoo](), dict[str, tuple[ZooJob, int]](), dict[str, Path]()
    for name, spec in options.suite.zoos.items():
        if spec.data:
            recipe_by_name(spec.recipe).override(**spec.recipe_settings)
            plans = plan_zoo(spec, datasets)
            zoos[name] = stand_in(plans)
            paths[name] = options.out / "zoos" / f"{name}-{digests[name]}"
            own = {dataset: datasets[dataset] for dataset, _ in spec.sized_data}
            job = ZooJob(name, spec, paths[name], own, options.device, options.cores)
            jobs[name] = job, len(plans)
        elif (path := _existing(options, name, spec)) is not None:
            zoos[name] = Zoo.open(path)
            zoos[name].vet()
            paths[name] = path
    return zoos, jobs, paths


def _obstacles(suite: Suite, cells: list[PlannedCell], zoos: Mapping[str, Zoo]) -> dict[str, str]:
    """Key of every impossible cell -> why.

    Raises:
        UsageError: If a method that is not optional cannot learn from a zoo.
    """
    reasons: dict[tuple[object, ...], str | None] = {}
    impossible = {}
    for cell in (planned.cell for planned in cells):
        kind = (cell.row, cell.zoos, cell.shot)  # seeds make no difference
        if kind not in reasons:
            reasons[kind] = _obstacle(cell, zoos)
        reason = reasons[kind]
        if reason is None:
            continue
        if not suite.methods[cell.row].optional:
            raise UsageError(
                f"{cell.row} cannot learn from the zoo {' + '.join(cell.zoos)}: {reason}; leave it out of the "
                "scenario, or mark the method `optional: true`"
            )
        impossible[cell.key] = reason
    return impossible


def _obstacle(cell: Cell, zoos: Mapping[str, Zoo]) -> str | None:
    absent = [name for name in cell.zoos if name not in zoos]
    if absent:
        return f"not measured: no folder of {absent[0]} was given (--zoo {absent[0]}=PATH)"
    return obstacle(cell, together([zoos[name] for name in cell.zoos]))


def _cell_job(
    options: BenchmarkOptions,
    planned: PlannedCell,
    size: int,
    datasets: Mapping[str, LocatedDataset],
    zoo_paths: Mapping[str, Path],
    digests: Mapping[tuple[str, int], str],
) -> CellJob:
    suite, cell = options.suite, planned.cell
    episodes = EvaluationSettings(
        suite.protocol, suite.query, suite.episodes, suite.episode_seed, suite.test_split, suite.curve_episodes
    )
    folder = options.out / "cells" / cell.key
    with_curve = suite.curve_episodes and cell.seed == seeds_of(suite, suite.methods[cell.row])[0]
    first: list[Measurement] = [planned.measurements[0]] if with_curve else []
    files = tuple(
        (
            each,
            measurement_file(folder, each, episodes, digests[each.dataset, size], with_curve=each in first),
        )
        for each in planned.measurements
    )
    return CellJob(
        cell,
        folder,
        tuple(zoo_paths[zoo] for zoo in cell.zoos),
        files,
        frozenset(first),
        {each.dataset: datasets[each.dataset] for each in planned.measurements},
        episodes,
        options.device,
        options.threads,
    )
