"""`dfml zoo build` and `dfml zoo inspect`: making classifiers, and looking at those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.options import (
    DeviceOption,
    IdentityOption,
    JsonOption,
    Recipe,
    SeedOption,
    SplitsOption,
    ThreadsOption,
    prepare_torch,
)
from dfml.cli.output import Output

app = typer.Typer(help="Make a zoo of classifiers, or look at one.", no_args_is_help=True)


@app.command()
def build(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Labelled images: image folders, zips of one, or glyphs.")
    ],
    out: Annotated[Path, typer.Option(metavar="ZOO", help="Folder of the zoo; an unfinished one is gone on with.")],
    members: Annotated[
        int | None, typer.Option(min=1, help="Classifiers; with --disjoint by default as many as there can be.")
    ] = None,
    way: Annotated[int, typer.Option(min=2, help="Classes a member.")] = 5,
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Members take turns: conv4, conv4_64, conv4_pyramid, fewshot_resnet10, fewshot_resnet18, or any "
            "name in timm.",
        ),
    ] = "conv4",
    recipe: Annotated[
        Recipe, typer.Option(help="How to train: as the papers do, or better classifiers sooner.")
    ] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    disjoint: Annotated[bool, typer.Option("--disjoint", help="No two members share a class.")] = False,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; by default train, or everything where there are no splits.")
    ] = None,
    splits: SplitsOption = None,
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Members trained at once; as many as is fastest by default.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Pre-train classifiers on labelled images: simulates the models that other people would bring."""
    output = Output(json_file)
    prepare_torch(threads)
    from dfml.cli.datasets import open_data
    from dfml.cli.tables import built_table
    from dfml.pretraining import build_zoo, recipe_by_name
    from dfml.training.device import select_device
    from dfml.training.progress import deferred_progress

    chosen = recipe_by_name(recipe)
    if epochs:
        chosen = chosen.override(epochs=epochs)
    place = select_device(device)
    datasets = [open_data(name, split=split, usual="train", official=splits, size=size) for name in data]
    for images in datasets:
        output.say(f"{images.name}: {len(images)} images of {len(images.classes)} classes")
    with deferred_progress("zoo build") as report:
        built = build_zoo(
            datasets,
            out,
            members=members,
            way=way,
            architectures=[name.strip() for name in arch.split(",")],
            recipe=chosen,
            disjoint=disjoint,
            seed=seed,
            workers=workers,
            device=place,
            progress=lambda member, ready, total: report(ready, total, {"held_out_accuracy": member.held_out_accuracy}),
        )
    output.show(built_table(built))
    output.say(f"zoo: {out}")
    output.say(f"next: dfml train {out} --out LEARNER")
    output.results({"zoo": out, "seed": seed, "recipe": recipe, "members": [vars(member) for member in built]})


@app.command()
def inspect(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of classifiers.")],
    class_identity: IdentityOption = None,
    json_file: JsonOption = None,
) -> None:
    """Look at every member of a zoo; exit code 1 if any cannot be used."""
    output = Output(json_file)
    from dfml.cli.tables import few, inspection_table
    from dfml.zoo.inspection import inspect_zoo
    from dfml.zoo.label_space import read_identity

    report = inspect_zoo(zoo, class_identity=read_identity(class_identity or "names"))
    output.show(inspection_table(report))
    for member in report.members:
        for remark in ([f"BAD: {member.problem}"] if member.problem else []) + list(member.warnings):
            output.say(f"{member.name}: {remark}")
    for name, knowing in report.merges.items():
        output.say(f"merged class {name}: {few(knowing)}")
    bad = sum(member.problem is not None for member in report.members)
    output.say(
        f"{len(report.members)} members, {bad} bad, {report.classes} classes, {len(report.merges)} of them merged"
    )
    output.results(report.as_dict())
    if not report.usable:
        raise typer.Exit(1)
