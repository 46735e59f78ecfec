"""The results of a benchmark as an HTML page, Markdown, CSV and the values of `results.json`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dfml.benchmark.cell_results import BenchmarkResults, Group, Row
from dfml.benchmark.preparation import BenchmarkOptions
from dfml.evaluation.protocol import versions
from dfml.report.domains import domain_differences, percent
from dfml.report.figures import to_svg
from dfml.report.html_page import Page, PageFigure, PagePicture, PageSheet, PageTable
from dfml.report.learning_curve import learning_curve
from dfml.report.results import curve_values, results_values
from dfml.report.table import Table, to_csv, to_markdown
from dfml.zoo.formats import MemberConfig

_MEGABYTE = 1e6


def group_table(group: Group) -> Table:
    """Build the table of one scenario and task: accuracies in percent, deviation over seeds, and costs.

    Args:
        group: Results with at least one row.
    """
    tests = {name: each.dataset for row in group.rows for name, each in row.evaluations.items()}
    several, seeds = len(tests) > 1, any(row.deviation is not None for row in group.rows)
    notes = any(row.notes for row in group.rows)
    headings = (
        "method",
        *tests.values(),
        *(["mean"] if several else []),
        *(["sd of seeds"] if seeds else []),
        *("train s", "peak MB", "kept MB"),
        *(["note"] if notes else []),
    )
    rows = []
    for row in group.rows:
        cells = [row.name]
        if not row.evaluations:
            cells += ["-"] * (len(headings) - 1 - notes)
        else:
            parts = [row.evaluations[name] for name in tests]
            cells += [percent(each.accuracy, each.ci) for each in [*parts, *([row.mean] if several else [])]]
            if seeds:
                cells.append(f"{100 * row.deviation:.2f}" if row.deviation is not None else "one seed")
            cells += [f"{row.seconds:.1f}", f"{row.peak_memory / _MEGABYTE:.0f}", f"{row.stored_bytes / _MEGABYTE:.2f}"]
        rows.append((*cells, "; ".join(row.notes)) if notes else tuple(cells))
    return Table(headings, tuple(rows), frozenset({"method", "note"}))


def differences(group: Group) -> Table | None:
    """Build the table of paired differences between the first measured method and each other; None without another."""
    first, *others = group.measured or (None,)
    if first is None or not others:
        return None
    evaluations = [each for row in group.measured for each in row.evaluations.values()]
    return domain_differences(evaluations, [(first.name, other.name) for other in others])


def zoo_table(results: BenchmarkResults) -> Table:
    """Build a table with one row per zoo, data set, architecture and input size: members and held-out accuracies."""
    rows = []
    for name, members in results.zoos.items():
        kinds: dict[tuple[str, str, int], list[MemberConfig]] = {}
        for member in members:
            kind = str(member.details.get("dataset", "-")), member.architecture, member.preprocessing.size
            kinds.setdefault(kind, []).append(member)
        for (dataset, architecture, size), own in kinds.items():
            accuracies = [100 * float(known) for each in own if (known := each.details.get("held_out_accuracy"))]
            held_out = "-"
            if accuracies:
                held_out = f"{statistics.mean(accuracies):.1f} ({min(accuracies):.1f} to {max(accuracies):.1f})"
            rows.append((name, dataset, architecture, f"{size} x {size}", str(len(own)), held_out))
    headings = ("zoo", "data", "architecture", "input", "members", "held-out %")
    return Table(headings, tuple(rows), frozenset({"zoo", "data", "architecture"}))


def benchmark_page(options: BenchmarkOptions, results: BenchmarkResults, command: str) -> Page:
    """Build the report page.

    Args:
        options: The suite and the options.
        results: Its results.
        command: Command that repeats the benchmark.
    """
    suite = options.suite
    tables = []
    for group in results.groups:
        about = suite.scenarios[group.scenario].about
        tables.append(PageTable(group.title, f"{about} {_conditions(options)}".strip(), group_table(group)))
        compared = differences(group)
        if compared:
            caption = f"{group.title}: mean difference on the same episodes with its 95% interval, in points."
            tables.append(PageTable("Paired differences", caption, compared))
    held_out = "Accuracy of members on held-out images of their own classes: mean (lowest to highest)."
    tables.append(PageTable("Zoos", held_out, zoo_table(results)))
    sheets = [
        PageSheet(title, caption, PagePicture(path.read_bytes(), title)) for title, caption, path in results.images
    ]
    return Page(
        title=suite.title,
        summary=f"{len(suite.methods)} methods, all on the same zoos and the same episodes.",
        command=command,
        meaning=list(suite_notes(options)),
        tables=tables,
        figures=_figures(results),
        sheets=sheets,
        notes=[f"{title} failed: {reason}" for title, reason in results.failures.items()],
        settings=suite.model_dump(mode="json"),
        versions=versions(),
    )


def suite_notes(options: BenchmarkOptions) -> tuple[str, ...]:
    """Notes of the suite and of its data sets, to be printed above the tables."""
    about = (f"{name}: {spec.about}" for name, spec in options.suite.datasets.items() if spec.about)
    return (*options.suite.notes, *about)


def _conditions(options: BenchmarkOptions) -> str:
    suite = options.suite
    return (
        f"Accuracy in percent with its 95% interval over {suite.episodes} episodes, {suite.query} query images per "
        f"class, protocol {suite.protocol}; mean over the trainings of all seeds. Peak: memory of the training process."
    )


def _figures(results: BenchmarkResults) -> list[PageFigure]:
    return [
        PageFigure(
            f"Learning curves: {name}",
            "Accuracy of the snapshots of each run (first seed, first task, first data set); no snapshot was selected "
            "by it.",
            to_svg(learning_curve(curves), f"curves-{number}", themed=True),
        )
        for number, (name, curves) in enumerate(results.curves.items())
    ]


def to_report(options: BenchmarkOptions, results: BenchmarkResults, command: str) -> str:
    """Format notes, all tables and the command as Markdown."""
    parts = [f"# {options.suite.title}\n", *(f"{note}\n" for note in suite_notes(options)), f"{_conditions(options)}\n"]
    for group in results.groups:
        parts += [f"## {group.title}\n", to_markdown(group_table(group))]
        compared = differences(group)
        if compared:
            parts += ["Paired differences on the same episodes, in points:\n", to_markdown(compared)]
    parts += ["## Zoos\n", to_markdown(zoo_table(results))]
    parts += [f"- {title} failed: {reason}\n" for title, reason in results.failures.items()]
    return "\n".join([*parts, f"```sh\n{command}\n```\n"])


def to_rows(options: BenchmarkOptions, results: BenchmarkResults) -> str:
    """Format the results as CSV: one row per scenario, task, method and data set."""
    headings = ("scenario", "method", "dataset", "way", "shot", "accuracy %", "± 95% CI", "sd of seeds", "seeds")
    costs = ("episodes", "protocol", "query", "episode seed", "train s", "peak bytes", "kept bytes", "note")
    rows = [
        _csv_row(options, group, row, name)
        for group in results.groups
        for row in group.rows
        for name in (row.evaluations or [""])
    ]
    return to_csv(Table((*headings, *costs), tuple(rows)))


def _csv_row(options: BenchmarkOptions, group: Group, row: Row, dataset: str) -> tuple[str, ...]:
    suite, note = options.suite, "; ".join(row.notes)
    shot = str(group.task.shot) if isinstance(group.task.shot, int) else "-".join(map(str, group.task.shot))
    start = (group.scenario, row.name, dataset, str(group.task.way), shot)
    common = (str(suite.episodes), suite.protocol, str(suite.query), str(suite.episode_seed))
    if not dataset:
        return (*start, "", "", "", "", *common, "", "", "", note)
    each = row.evaluations[dataset]
    deviation = "" if row.deviation is None else f"{100 * row.deviation:.2f}"
    accuracy = (f"{100 * each.accuracy:.2f}", f"{100 * each.ci:.2f}", deviation, " ".join(map(str, row.seeds)))
    return (*start, *accuracy, *common, f"{row.seconds:.1f}", str(row.peak_memory), str(row.stored_bytes), note)


def benchmark_values(options: BenchmarkOptions, results: BenchmarkResults) -> dict[str, Any]:
    """Collect the values of `results.json`; accuracies and intervals are fractions, durations seconds, sizes bytes.

    `methods` and `pairs` are those of the first scenario and task with results, for the mean over its data sets;
    `results` has all scenarios and tasks.
    """
    suite = options.suite
    groups = [_group_values(group) for group in results.groups]
    first: dict[str, Any] = next((each["mean"] for each in groups if each["mean"]), {"methods": {}, "pairs": []})
    return {
        "suite": options.name,
        "title": suite.title,
        "methods": first["methods"],
        "pairs": first["pairs"],
        "protocol": suite.protocol,
        "query": suite.query,
        "episodes": suite.episodes,
        "episode_seed": suite.episode_seed,
        "seeds": list(suite.seeds),
        "versions": versions(),
        "notes": list(suite_notes(options)),
        "results": groups,
        "curves": {
            scenario: {row: curve_values(curve) for row, curve in curves.items()}
            for scenario, curves in results.curves.items()
        },
        "zoos": {
            name: [
                {"name": each.name, "architecture": each.architecture, "labels": list(each.labels), **each.details}
                for each in members
            ]
            for name, members in results.zoos.items()
        },
        "failures": results.failures,
    }


def _group_values(group: Group) -> dict[str, Any]:
    seconds = {row.name: row.seconds for row in group.measured}
    tests = list(dict.fromkeys(name for row in group.measured for name in row.evaluations))
    mean = results_values([row.mean for row in group.measured], seconds) if group.measured else {}
    for row in group.measured:
        mean["methods"][row.name] |= {
            "seeds": {str(seed): accuracy for seed, accuracy in row.seeds.items()},
            "sd_of_seeds": row.deviation,
            "peak_memory": row.peak_memory,
            "stored_bytes": row.stored_bytes,
        }
    return {
        "scenario": group.scenario,
        "way": group.task.way,
        "shot": group.task.shot,
        "mean": mean,
        "datasets": {
            name: results_values(_evaluations_on(group.measured, name), seconds)
            for name in (tests if len(tests) > 1 else ())
        },
        "notes": {row.name: list(row.notes) for row in group.rows if row.notes},
    }


def _evaluations_on(rows: Sequence[Row], dataset: str) -> list[Any]:
    return [row.evaluations[dataset] for row in rows]
