"""`dfml invert`: recover images from classifiers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfml.cli.options import (
    MAX_RESIDENT,
    DeviceOption,
    JsonOption,
    MaxResidentOption,
    NetworksOption,
    OnBadMemberOption,
    SeedOption,
    ThreadsOption,
    prepare_torch,
    read_networks,
)
from dfml.cli.output import Output, say_left_out, to_json
from dfml.cli.output_folder import report_write_errors, require_empty
from dfml.errors import UsageError

if TYPE_CHECKING:
    from dfml.inversion.inverted import InvertedMember
    from dfml.inversion.registry import InversionConfig, LearnedEngine


_SHEET_MEMBERS = 100  # members on the contact sheet: one of 1,000 would have gigabytes


def invert(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Folder of a zoo, or of one member.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder for the images; new or empty.")],
    member: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Name of a member to invert. Repeatable; default: all.")
    ] = None,
    members: Annotated[int | None, typer.Option(min=1, metavar="N", help="Invert the first N members only.")] = None,
    per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images of each class.")] = 10,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Inversion engine. ei: optimise pixels; consensus: one set of pixels per class for all members that "
            "have the class, written to DIR/CLASS; cmi: a generator trained from scratch for each batch; five, "
            "fast_dfkd: a generator that a run has meta-trained (--from); zeroth_order: as cmi, for members that "
            "only predict; or an engine of another package.",
        ),
    ] = "ei",
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Output folder of a `dfml train` that meta-trained an engine (such as --method free), or "
            "RUN/checkpoints/N.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of steps of the engine on each batch, which has at most 20 classes of a member. Default of "
            "ei and consensus: as many as the members need (ei.search_steps), and 30 more.",
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="GIB",
            help="Memory that one backward pass through a member may take; more images are passed in chunks, with the "
            "same result up to rounding. Default: 2, or what the run had (--from).",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the engine, such as ei.lr=0.05. Repeatable."),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images that the members were trained on: a folder class/image or split/class/image, or a zip. Finds "
            "the nearest to every recovered image, and writes DIR/nearest.png and DIR/nearest.json.",
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images like those of --compare-with that no member was trained on: how near they are is the "
            "baseline. Default: training images, each compared with all others.",
        ),
    ] = None,
    network: NetworksOption = None,
    on_bad_member: OnBadMemberOption = "fail",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_resident: MaxResidentOption = MAX_RESIDENT,
    json_file: JsonOption = None,
) -> None:
    """Recover images of every class from classifiers alone, and measure how faithful they are."""
    output = Output(json_file)
    require_empty(out)
    if held_out and not compare_with:
        raise UsageError("--held-out is the baseline of --compare-with IMAGES; give that too, or leave it out")
    output.say(f"inverting {zoo} with the engine {engine}")
    prepare_torch(threads)
    from dfml import invert as invert_zoo
    from dfml.cli.compare_with import SHEET, compare, comparison_table, open_training
    from dfml.cli.tables import fidelity_table
    from dfml.inversion.invert import inversion_settings, not_invertible
    from dfml.inversion.registry import shares_pixels
    from dfml.report.contact_sheet import render_inversion, render_shared
    from dfml.settings import merge, read_assignment
    from dfml.training.device import select_device
    from dfml.training.engine_checkpoint import read_engine
    from dfml.training.progress import deferred_progress
    from dfml.zoo.zoo import Zoo

    place = select_device(device)
    learned = read_engine(start_from, place) if start_from else None
    settings: dict[str, Any] = {}
    for assignment in assignments or []:
        settings = merge(settings, read_assignment(assignment, engine))
    if steps:
        settings |= {"steps": steps} | ({"search_steps": 0} if engine in ("ei", "consensus") else {})
    config = inversion_settings(engine, learned, settings)
    if memory:
        config = config.model_copy(update={"memory": memory})
    opened = Zoo.open(zoo, networks=read_networks(network), max_resident=max_resident, on_bad_member=on_bad_member).to(
        place
    )
    say_left_out(output, opened.left_out)
    opened.vet()  # a bad member must not end the work after hours; those that are not inverted judge the images
    names = _names(opened, member or [], members)
    if not member:
        only_predict = not_invertible(opened, config.engine)
        for name, reason in only_predict.items():
            output.say(f"{name} is not inverted: {reason}")
        names = [name for name in names if name not in only_predict]
        if not names:
            raise UsageError(f"expected a member that {config.engine} can invert, found none; choose other members")
    # No member yet: checks that settings and engine fit before anything is written.
    inverted = invert_zoo(opened, members=[], learned=learned, config=config)
    own = open_training(compare_with, held_out) if compare_with else None
    # The inversion of a member also writes its images; members that cannot be read raise errors of their own.
    with report_write_errors(out):
        _write_config(out, opened.paths[0], seed, config, learned)
        together = shares_pixels(config.engine)
        for title, chosen in [("all members", names)] if together else [(name, [name]) for name in names]:
            with deferred_progress(title) as progress:

                def on_step(_: str, done: int, total: int, losses: Mapping[str, float]) -> None:
                    progress(done, total, losses)  # called within this turn of the loop only

                inverted += invert_zoo(
                    opened,
                    members=chosen,
                    per_class=per_class,
                    learned=learned,
                    config=config,
                    out=out,
                    seed=seed,
                    on_step=on_step,
                )
            if not together and not own:  # a comparison needs the images of all members
                inverted[_SHEET_MEMBERS:] = [replace(each, images=()) for each in inverted[_SHEET_MEMBERS:]]
    contact_sheet = render_shared(inverted) if together else render_inversion(inverted[:_SHEET_MEMBERS])
    results = {**_results(inverted, per_class, seed), "left_out": dict(opened.left_out)}
    with report_write_errors(out):
        contact_sheet.save(out / "contact_sheet.png")
        (out / "fidelity.json").write_text(to_json(results), encoding="utf-8")
    output.show(fidelity_table(inverted))
    if any(each.fidelity.other_agreement is None for each in inverted):
        output.say("other members %: - where no other member of the zoo has a class of the images (disjoint zoos)")
    for each in inverted:
        if each.fidelity.warning:
            output.say(f"{each.name}: {each.fidelity.warning}")
    of_members = f" of the first {_SHEET_MEMBERS} members" if not together and len(inverted) > _SHEET_MEMBERS else ""
    output.say(f"images: {out}; contact sheet{of_members}: {out / 'contact_sheet.png'}")
    if own:
        found = {name for each in inverted for name in each.classes}
        shared = [name for name in opened.classes.names if name in found] if together else None
        with report_write_errors(out):
            results["comparison"] = compare(own, inverted, out, shared=shared, seed=seed)
        output.show(comparison_table(results["comparison"]))
        output.say("near: nearer to a training image than 99% of the real images are; 1% of the images by chance")
        output.say(f"recovered images beside the nearest training images: {out / SHEET}")
    output.results(results)


def _names(zoo: Any, names: list[str], first: int | None) -> list[str]:
    """Names of the members that were asked for.

    Raises:
        UsageError: If both ways of choosing are used, a name is unknown, or there are fewer members.
    """
    if names and first:
        raise UsageError("--member and --members contradict each other; drop one of them")
    if first and first > len(zoo):
        raise UsageError(f"--members {first} asks for more members than the zoo has ({len(zoo)})")
    from dfml.inversion.invert import member_indices

    return [zoo.name(index) for index in member_indices(zoo, names or list(range(first or len(zoo))))]


def _write_config(
    out: Path, zoo: Path | None, seed: int, config: InversionConfig, learned: LearnedEngine | None
) -> None:
    """Create the folder and record in it how the images were made."""
    import yaml

    from dfml.zoo.hub import absolute_path

    assert zoo is not None  # it was opened from a path
    about: dict[str, Any] = {"zoo": str(absolute_path(zoo)), "seed": seed}
    if learned:
        about["from"] = learned.source
    about[config.engine] = config.section().model_dump(mode="json")
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")


def _results(inverted: list[InvertedMember], per_class: int, seed: int) -> dict[str, Any]:
    from dfml.evaluation.protocol import versions

    members = {each.name: {"labels": list(each.labels), **each.fidelity.as_dict()} for each in inverted}
    return {"members": members, "per_class": per_class, "seed": seed, "versions": versions()}
