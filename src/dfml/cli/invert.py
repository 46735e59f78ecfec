"""`dfml invert`: what classifiers still know of the images they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dfml.cli.options import DeviceOption, JsonOption, SeedOption, ThreadsOption, prepare_torch
from dfml.cli.output import Output, to_json
from dfml.cli.output_folder import require_empty, writing

Engine = Literal["ei", "cmi", "fast_dfkd", "five"]


def invert(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of classifiers, or of one.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the images; new or empty.")],
    member: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Invert this member. Repeatable; all members by default.")
    ] = None,
    members: Annotated[int | None, typer.Option(min=1, metavar="N", help="Invert the first N members.")] = None,
    per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Images of each class of a member.")] = 10,
    engine: Annotated[
        Engine,
        typer.Option(
            help="ei: pixels; cmi: a generator from scratch; five, fast_dfkd: one that a run has meta-trained (--from)."
        ),
    ] = "ei",
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Folder of a `dfml train --method free` run, or RUN/checkpoints/N: the engine that it has trained.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the engine on each member.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the engine, such as ei.lr=0.05."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Recover images of every class from classifiers alone, and say how faithful they are."""
    output = Output(json_file)
    require_empty(out)
    prepare_torch(threads)
    from dfml.cli import recovery, trained
    from dfml.training.device import select_device
    from dfml.zoo.zoo import Zoo

    place = select_device(device)
    learned = trained.read_trained(engine, start_from, place)
    config = recovery.settings(engine, learned, steps, assignments or [])
    opened = Zoo.open(zoo).to(place)
    chosen = recovery.choose(opened, member or [], members)
    workshop = recovery.Workshop(config, learned, seed, place)
    with writing(out):
        workshop.begin(out, zoo)
        recovered = [workshop.recover(opened, index, per_class, out) for index in chosen]
        recovery.draw(recovered).save(out / "contact_sheet.png")
        results = recovery.results(recovered, per_class, seed)
        (out / "fidelity.json").write_text(to_json(results), encoding="utf-8")
    output.show(recovery.fidelity_table(recovered))
    for each in recovered:
        if each.fidelity.warning:
            output.say(f"{each.name}: {each.fidelity.warning}")
    output.say(f"images: {out}; all on one sheet: {out / 'contact_sheet.png'}")
    output.results(results)
