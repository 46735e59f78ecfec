"""`dfml zoo build` and `dfml zoo inspect`: make a zoo of classifiers, or check one; `zoo_add.py` has `dfml zoo add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.options import (
    MAX_RESIDENT,
    DeviceOption,
    IdentityOption,
    JsonOption,
    MaxResidentOption,
    NetworksOption,
    Recipe,
    SeedOption,
    SplitsOption,
    ThreadsOption,
    prepare_torch,
    read_networks,
)
from dfml.cli.output import Output, require_writable
from dfml.cli.zoo_add import add
from dfml.errors import UsageError

app = typer.Typer(
    help="Build a zoo of classifiers, add other people's files to one, or check one.", no_args_is_help=True
)
app.command()(add)


@app.command()
def build(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA[@SIZE]...",
            help="Labelled images: image folders (class/image or split/class/image), zips of such, or glyphs "
            "(rendered letters). A side length in pixels may follow after an @, as in cifar-fs.zip@48; the same data "
            "may be given at several sizes. What exists as a path is a path, even with an @ in it.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="ZOO", help="Folder for the zoo. An unfinished zoo of the same settings is resumed.")
    ],
    members: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Number of classifiers. May be omitted with --disjoint: as many as possible."
        ),
    ] = None,
    way: Annotated[
        str,
        typer.Option(metavar="N,...", help="Classes per member, at least 2; several numbers are taken in turn: 5,20."),
    ] = "5",
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Architectures, which members take in turn: conv4, conv4_64, conv4_pyramid, fewshot_resnet10, "
            "fewshot_resnet18, or any model name of timm. With enough members, each occurs with every DATA and every "
            "--way.",
        ),
    ] = "conv4",
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="Training recipe. paper: 60 epochs without augmentation, as PURER and FREE. strong: 25 epochs with "
            "augmentation and a one-cycle schedule; higher accuracy.",
        ),
    ] = "paper",
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of epochs instead of the recipe's.")
    ] = None,
    disjoint: Annotated[bool, typer.Option("--disjoint", help="Give each class to one member at most.")] = False,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Part of the data: train, val or test. Default: train, or all of undivided data."
        ),
    ] = None,
    splits: SplitsOption = None,
    size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Side length in pixels of the images of DATA without a size.")
    ] = 32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Members trained at the same time. Default: chosen by number of threads and work."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Pre-train classifiers on labelled images.

    The zoo stands in for the models of other people that dfml is made for. Each member learns some of the classes: a
    random choice, or sets that do not overlap (--disjoint). Members take the data sets, architectures and numbers of
    classes in turn, so that one zoo may hold several of each.
    """
    output = Output(json_file)
    prepare_torch(threads)
    from dfml.cli.datasets import open_data, read_sizes
    from dfml.cli.tables import built_table
    from dfml.pretraining import build_zoo, recipe_by_name
    from dfml.training.device import select_device
    from dfml.training.progress import deferred_progress

    chosen = recipe_by_name(recipe)
    if epochs:
        chosen = chosen.override(epochs=epochs)
    ways = _read_ways(way)
    datasets = [
        open_data(name, split=split, usual="train", official=splits, size=own) for name, own in read_sizes(data, size)
    ]
    for images in datasets:
        side = images.images.shape[-1]
        output.say(f"{images.name}: {len(images)} images of {len(images.classes)} classes, {side} x {side} pixels")
    with deferred_progress("zoo build") as report:
        built = build_zoo(
            datasets,
            out,
            members=members,
            way=ways,
            architectures=[name.strip() for name in arch.split(",")],
            recipe=chosen,
            disjoint=disjoint,
            seed=seed,
            workers=workers,
            device=select_device(device),
            progress=lambda member, ready, total: report(ready, total, {"held_out_accuracy": member.held_out_accuracy}),
        )
    output.show(built_table(built))
    output.say(f"zoo: {out}")
    output.say(f"next: dfml train {out} --out LEARNER")
    output.results({"zoo": out, "seed": seed, "recipe": recipe, "members": [vars(member) for member in built]})


def _read_ways(text: str) -> list[int]:
    """Read the value of `--way`: numbers of classes, separated by commas.

    Raises:
        UsageError: If one is no whole number of at least 2.
    """
    ways = [way.strip() for way in text.split(",")]
    for way in ways:
        if not way.isdecimal() or int(way) < 2:
            raise UsageError(f"expected --way N,... with numbers of classes of at least 2, found {way!r} in {text!r}")
    return [int(way) for way in ways]


@app.command()
def inspect(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of classifiers, or one model file.")],
    class_identity: IdentityOption = None,
    network: NetworksOption = None,
    identity_file: Annotated[
        Path | None,
        typer.Option(
            "--write-identity",
            metavar="FILE",
            help="Write the class of every output to a YAML file that --class-identity reads; you may edit it.",
        ),
    ] = None,
    max_resident: MaxResidentOption = MAX_RESIDENT,
    json_file: JsonOption = None,
) -> None:
    """List all members of a zoo and all model files below it, with what is wrong with them.

    Files are recognised by their content. The exit code is 1 if any of them cannot be used.
    """
    output = Output(json_file)
    if identity_file:
        require_writable("--write-identity", identity_file)
    from dfml.cli.class_identity import resolve_identity, write_identity
    from dfml.cli.tables import inspection_table, shorten
    from dfml.zoo.inspection import inspect_zoo

    networks = read_networks(network)
    identity = resolve_identity(class_identity, zoo, output, networks, max_resident=max_resident)
    if identity_file:
        write_identity(identity, identity_file)
    report = inspect_zoo(zoo, class_identity=identity, networks=networks)
    output.show(inspection_table(report))
    for member in report.members:
        mark = "" if member.can_be_added else "BAD: "
        problems = [f"{mark}{member.problem}"] if member.problem else []
        for message in (*problems, *member.warnings):
            output.say(f"{member.name}: {message}")
    for label, members in report.merges.items():
        output.say(f"merged class {label}: {shorten(members)}")
    rows = [member for member in report.members if member.is_member]
    bad = sum(member.problem is not None for member in rows)
    if len(set(sizes := [member.size for member in report.members if member.size])) > 1:
        counts = ", ".join(f"{size} ({sizes.count(size)} of {len(sizes)} members)" for size in sorted(set(sizes)))
        output.say(
            f"input sizes in pixels: {counts}; a learner works at {report.learner_size} x {report.learner_size}, the "
            "most common size, the larger one on a tie; dfml train --size N chooses another"
        )
    output.say(f"{len(rows)} members, {bad} bad, {report.classes} classes, {len(report.merges)} of them merged")
    if len(rows) < len(report.members):
        output.say(f"{len(report.members) - len(rows)} other model files are no members: see above what each needs")
    if report.others:
        output.say(f"{report.others} other files are texts or images and hold no classifier")
    output.results(report.as_dict())
    if not report.usable:
        raise typer.Exit(1)
