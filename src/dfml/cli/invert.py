"""`dfml invert`: what classifiers still know of the images they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.folders import require_empty, writing
from dfml.cli.options import DeviceOption, JsonOption, SeedOption, ThreadsOption, use_threads
from dfml.cli.output import Output, to_json


def invert(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of classifiers, or of one.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the images; new or empty.")],
    member: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Invert this member. Repeatable; all members by default.")
    ] = None,
    members: Annotated[int | None, typer.Option(min=1, metavar="N", help="Invert the first N members.")] = None,
    per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Images of each class of a member.")] = 10,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as pixels.lr=0.05 or pixels.weights.l2=0."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Recover images of every class from classifiers alone, and say how faithful they are."""
    output = Output(json_file)
    require_empty(out)
    use_threads(threads)
    from dfml.cli import recovery
    from dfml.training.device import select_device
    from dfml.zoo.zoo import Zoo

    config = recovery.settings(steps, assignments or [])
    opened = Zoo.open(zoo).to(select_device(device))
    chosen = recovery.choose(opened, member or [], members)
    with writing(out):
        recovery.begin(out, config, zoo, seed)
        recovered = [recovery.recover(opened, index, per_class, config, seed, out) for index in chosen]
        recovery.draw(recovered).save(out / "contact_sheet.png")
        results = recovery.results(recovered, per_class, seed)
        (out / "fidelity.json").write_text(to_json(results), encoding="utf-8")
    output.show(recovery.fidelity_table(recovered))
    for each in recovered:
        if each.fidelity.warning:
            output.say(f"{each.name}: {each.fidelity.warning}")
    output.say(f"images: {out}; all on one sheet: {out / 'contact_sheet.png'}")
    output.results(results)
