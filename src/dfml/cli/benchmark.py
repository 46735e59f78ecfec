"""`dfml benchmark`: all methods of a suite on the same zoos and the same episodes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dfml.benchmark import shipped_suites
from dfml.cli.error_handling import show_error
from dfml.cli.options import DeviceOption, JsonOption
from dfml.cli.output import Output, to_json
from dfml.cli.output_folder import require_empty
from dfml.errors import UsageError


def benchmark(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help=f"Path of a suite (YAML), or one of {', '.join(shipped_suites())}."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for all results; new or empty, unless --resume is given."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Compute only what is missing in --out; results of unchanged settings are kept."),
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Image folder, or zip of one, of a data set that the suite names. Can be repeated. Others are "
            "searched for as NAME.zip or NAME/ in the folder of the environment variable DFML_DATA.",
        ),
    ] = None,
    zoo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="Folder of a zoo, or of one model, that the suite names. Can be repeated."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Trainings at once. Default: one per CPU core and 2 GiB of memory; 1 on a GPU."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the suite with all its values as YAML, and exit.")
    ] = False,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Measure all methods of a suite on the same zoos and the same episodes.

    Builds the suite's zoos, trains every method on them, evaluates the learners, and writes one page with tables,
    paired differences, learning curves and recovered images (also as Markdown, CSV and JSON). Each training is a
    process of its own: one that fails is named in the table, and the exit code is 1.
    """
    output = Output(json_file)
    import yaml

    from dfml.benchmark.suite import load_suite

    loaded, folder = load_suite(suite)
    if show:
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)
        return
    if out is None:
        raise UsageError("expected a folder for the results: --out DIR")
    if not resume:
        require_empty(out)
    located = {"--data": _read_pairs("--data", data), "--zoo": _read_pairs("--zoo", zoo)}

    from dfml.benchmark.cell_results import read_results
    from dfml.benchmark.execution import available_cores, default_jobs, execute
    from dfml.benchmark.preparation import BenchmarkOptions, prepare
    from dfml.benchmark.summary import benchmark_page, benchmark_values, group_table, to_report, to_rows
    from dfml.files import atomic_write
    from dfml.report.html_page import write_page
    from dfml.report.table import to_rich
    from dfml.training.device import select_device

    cores = available_cores()
    jobs = jobs or default_jobs(select_device(device))
    options = BenchmarkOptions(
        name=suite,
        suite=loaded,
        folder=folder,
        out=out,
        data=located["--data"],
        zoos=located["--zoo"],
        device=device,
        threads=max(1, cores // jobs),
        cores=cores,
    )
    plan = prepare(options)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "suite.yaml", yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False))
    results = read_results(plan, execute(plan, jobs))
    command = shlex.join(["dfml", *sys.argv[1:]])
    values = benchmark_values(options, results)
    write_page(benchmark_page(options, results, command), out / "report.html")
    atomic_write(out / "report.md", to_report(options, results, command))
    atomic_write(out / "report.csv", to_rows(options, results))
    atomic_write(out / "results.json", to_json({**values, "seconds": round(output.seconds, 3)}))
    for group in results.groups:
        output.say(group.title)
        output.show(to_rich(group_table(group)))
    output.results(values)
    output.say(f"report: {out / 'report.html'} (also report.md, report.csv, results.json)")
    if results.failures:
        names = "; ".join(f"{title}: {reason}" for title, reason in results.failures.items())
        show_error(f"{len(results.failures)} of {len(plan.jobs)} cells failed ({names}); --resume tries them again")
        raise typer.Exit(1)


def _read_pairs(option: str, values: list[str] | None) -> dict[str, Path]:
    """Read the values NAME=PATH of an option.

    Raises:
        UsageError: If one has another form.
    """
    found = {}
    for value in values or []:
        name, separator, path = value.partition("=")
        if not (name and separator and path):
            raise UsageError(f"expected {option} NAME=PATH, found {value!r}")
        found[name] = Path(path)
    return found
