"""`dfml quickstart`: a complete example on embedded data, offline, in a few minutes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.options import JsonOption, SeedOption, prepare_torch
from dfml.cli.output import Output
from dfml.cli.output_folder import require_empty

_PRINTED_IMAGES = 2  # query images per class whose predictions are printed


def quickstart(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for all results; new or empty.")] = Path(
        "quickstart"
    ),
    seed: SeedOption = 0,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel="Common options",
            help="Number of CPU threads. More than one gains little here.",
        ),
    ] = 1,
    json_file: JsonOption = None,
) -> None:
    """Run a complete example on rendered letters. Nothing is downloaded.

    Trains a zoo on Latin letters and digits; trains learners from that zoo alone (zoo_student, PURER, FREE); compares
    them with all baselines on Greek and Cyrillic letters; adapts one to a new task; and writes a report page. Takes
    three to four minutes on one CPU core.
    """
    output = Output(json_file)
    require_empty(out)
    prepare_torch(threads)
    from dfml.demo.explanation import explain
    from dfml.demo.page import predictions_table, quickstart_values, write_quickstart
    from dfml.demo.quickstart_folder import QuickstartFolder
    from dfml.demo.run import run_quickstart
    from dfml.report.table import differences_table, results_table, to_rich
    from dfml.training.loop import Interrupted
    from dfml.training.progress import show_progress

    folder = QuickstartFolder(out)
    output.say(f"quickstart in {out}, seed {seed}: nothing is downloaded")
    try:
        result = run_quickstart(
            folder,
            seed=seed,
            report=lambda stage, seconds, outcome: output.say(f"{seconds:6.1f} s  {stage}: {outcome}"),
            watch=show_progress,
        )
    except Interrupted as stop:
        show_error(f"{stop}; remove {out}, or choose another --out, and start again")
        raise typer.Exit(stop.exit_code) from stop
    write_quickstart(result, folder, shlex.join(["dfml", *sys.argv[1:]]))
    output.results(quickstart_values(result), folder.results)

    output.show(to_rich(results_table(result.evaluations, result.training_seconds)))
    output.show(to_rich(differences_table(result.differences)))
    for paragraph in explain(result):
        output.show(paragraph)
    output.say("Predictions of the adapted classifier for query images of one new task:")
    output.show(to_rich(predictions_table(result.task, _PRINTED_IMAGES)))
    also = [*map(folder.contact_sheet, result.trainings), folder.curves, folder.results]
    output.say(f"report: {folder.page} (also {', '.join(path.name for path in also)})")
    learner, support = str(folder.run_folder(result.trained[0].name)), str(folder.task / "support")
    output.say(f"next: {shlex.join(['dfml', 'adapt', learner, support, '--out', 'MINE'])}")
    output.say(f"      {shlex.join(['dfml', 'predict', str(folder.classifier), str(folder.task / 'query')])}/*.png")
    output.say(f"done in {output.seconds:.0f} s")
