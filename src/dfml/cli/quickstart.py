"""`dfml quickstart`: a complete example on embedded data, offline, in a few minutes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.options import JsonOption, SeedOption, prepare_torch
from dfml.cli.output import Output, to_json
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
    from dfml.demo import page
    from dfml.demo.explanation import explain
    from dfml.demo.run import CLASSIFIER, LEARNER, run_quickstart
    from dfml.report.table import differences_table, results_table, to_rich
    from dfml.training.loop import Interrupted
    from dfml.training.progress import show_progress

    output.say(f"quickstart in {out}, seed {seed}: nothing is downloaded")
    try:
        result = run_quickstart(
            out,
            seed=seed,
            report=lambda stage, seconds, outcome: output.say(f"{seconds:6.1f} s  {stage}: {outcome}"),
            watch=show_progress,
        )
    except Interrupted as stop:
        show_error(f"{stop}; remove {out}, or choose another --out, and start again")
        raise typer.Exit(stop.exit_code) from stop
    page.write_quickstart(result, out, shlex.join(["dfml", *sys.argv[1:]]))
    values = {**page.quickstart_values(result), "seconds": round(output.seconds, 3)}
    (out / "results.json").write_text(to_json(values), encoding="utf-8")

    output.show(to_rich(results_table(result.evaluations, result.training_seconds)))
    output.show(to_rich(differences_table(page.differences(result))))
    for paragraph in explain(result):
        output.show(paragraph)
    output.say("Predictions of the adapted classifier for query images of one new task:")
    output.show(to_rich(page.predictions_table(result.task, _PRINTED_IMAGES)))
    sheets = [page.SHEET.format(name) for name in result.trainings]
    output.say(f"report: {out / page.PAGE} (also {', '.join([*sheets, page.CURVE, 'results.json'])})")
    support, query = (out / page.TASK / part for part in ("support", "query"))
    output.say(f"next: {shlex.join(['dfml', 'adapt', str(out / LEARNER), str(support), '--out', 'MINE'])}")
    output.say(f"      {shlex.join(['dfml', 'predict', str(out / CLASSIFIER), str(query)])}/*.png")
    output.say(f"done in {output.seconds:.0f} s")
    output.results(values)
