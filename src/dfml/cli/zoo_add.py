"""`dfml zoo add`: other people's files as members of a zoo."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.options import JsonOption, OnBadMember, OnBadMemberOption
from dfml.cli.output import Output
from dfml.plain_text import plain_text

if TYPE_CHECKING:
    from dfml.zoo.adding import Assessment, Stated
    from dfml.zoo.adding_rules import Missing
    from dfml.zoo.manifest import ManifestMember

_NETWORK = "Network (proposed from the weights where it is not stated)"
_INPUT = "Input and output"


def add(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files or folders of classifiers; folders of such files.")
    ],
    zoo: Annotated[
        Path,
        typer.Option("--zoo", metavar="ZOO", help="Folder of the zoo, whose zoo.yaml gets the entries; may be new."),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the member, for one PATH. Default: the file's name."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_NETWORK,
            help="Architecture: torchvision:NAME, timm:NAME or cifar_resnet:DEPTH.",
        ),
    ] = None,
    layers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_NETWORK, help="YAML file with the network as a list of layers of torch.nn."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:CLASS",
            rich_help_panel=_NETWORK,
            help="Python file of the owner that has the network's class. The file is run: name one that you trust.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,...",
            rich_help_panel=_INPUT,
            help="Class names in the order of the outputs: a file (JSON, or one name per line), or names with commas.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", rich_help_panel=_INPUT, help="Input size in pixels: 32, or height x width."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=3, metavar="N", rich_help_panel=_INPUT, help="Input channels: 3, or 1 for grey."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="V[,V,V]", rich_help_panel=_INPUT, help="Mean that is subtracted, one value or one per channel."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="V[,V,V]", rich_help_panel=_INPUT, help="Standard deviation that is divided by."),
    ] = None,
    pixel_range: Annotated[
        Literal["0..1", "0..255"] | None,
        typer.Option(
            "--range",
            rich_help_panel=_INPUT,
            help="Range of the pixels that mean and std are of. Without them: images are only scaled to this range.",
        ),
    ] = None,
    output_kind: Annotated[
        Literal["logits", "logit", "softmax", "log_softmax", "sigmoid"] | None,
        typer.Option(
            "--output",
            rich_help_panel=_INPUT,
            help="What the network returns. logit, sigmoid: one number for the second of two classes.",
        ),
    ] = None,
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic"] | None,
        typer.Option(
            rich_help_panel=_INPUT, help="How images of another size are resized to the input size. Default: bilinear."
        ),
    ] = None,
    accept_preprocessing: Annotated[
        bool,
        typer.Option(
            "--accept-preprocessing",
            help="Take the preprocessing that fits the first batch-norm layers best, where that is clear.",
        ),
    ] = False,
    check_with: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Labelled images (class/image): the preprocessing with the highest accuracy is taken.",
        ),
    ] = None,
    class_index: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML or JSON: folder of --check-with -> index of the output. Default: by the labels."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing; take an architecture that leaves points open.")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy/--link", help="Copy files into the zoo, or refer to them where they are (default).")
    ] = False,
    on_bad_member: OnBadMemberOption = "fail",
    json_file: JsonOption = None,
) -> None:
    """Add other people's files to a zoo: recognise them, propose how they are read, and ask for what no file tells.

    A member is added when its weights fit exactly, it classifies an image, and its preprocessing is stated, confirmed
    by labelled images, or accepted. Elsewhere than on a terminal, what is missing is an error that names the option to
    give; files that can be added are added all the same.
    """
    output = Output(json_file)
    from dfml.cli.member_statement import read_statement
    from dfml.errors import UsageError, ZooMemberError
    from dfml.inversion.proposal_scores import statistics_distance
    from dfml.zoo.adding import model_paths

    files = model_paths(paths)
    if name and len(files) > 1:
        raise UsageError(f"--name is for one file, found {len(files)}")
    stated = read_statement(
        name=name,
        architecture=arch,
        layers=layers,
        network=network,
        labels=labels,
        size=size,
        channels=channels,
        mean=mean,
        std=std,
        pixel_range=pixel_range,
        output=output_kind,
        interpolation=interpolation,
        images=check_with,
        class_index=class_index,
    )
    stated = replace(
        stated,
        accept_preprocessing=accept_preprocessing,
        accept_architecture=yes,
        distance=statistics_distance,
    )
    asking = sys.stdin.isatty() and not yes
    results: list[dict[str, Any]] = []
    for path in files:
        try:
            entry = _add_one(path, zoo, stated, output, copy=copy, asking=asking)
            results.append({"path": path, "added": entry.member_name, "entry": entry.model_dump(mode="json")})
        except ZooMemberError as error:
            problem = f"{error.reason}; {error.fix}"
            results.append({"path": path, "added": None, "problem": problem})
            show_error(f"{path}: {problem}")
    added = sum(result["added"] is not None for result in results)
    output.say(f"{added} of {len(files)} added to {zoo}")
    output.results({"zoo": zoo, "files": results})
    _exit(added, len(files), on_bad_member)


def _exit(added: int, total: int, on_bad_member: OnBadMember) -> None:
    if added < total and (on_bad_member == "fail" or not added):
        raise typer.Exit(1)


def _add_one(path: Path, zoo: Path, stated: Stated, output: Output, *, copy: bool, asking: bool) -> ManifestMember:
    """Assess a file, ask for what is missing, and write its entry.

    Raises:
        ZooMemberError: If it cannot be a member, or something is missing.
    """
    from dfml.errors import ZooMemberError
    from dfml.zoo.adding import assess
    from dfml.zoo.manifest import Manifest, read_manifest

    manifest = read_manifest(zoo) or Manifest()
    while True:
        assessment = assess(path, zoo, manifest, stated)
        if not assessment.missing or not asking:
            break
        output.say(f"{path}: {assessment.found.kind.value}")
        stated = _ask(assessment.missing[0], stated)
    for note in assessment.notes:
        output.say(f"{path}: {note}")
    if assessment.missing:
        reasons = "; and ".join(missing.reason for missing in assessment.missing)
        flags = "; and ".join(f"give {missing.flags}" for missing in assessment.missing)
        raise ZooMemberError(path, reasons, flags)
    entry = assessment.entry
    assert entry is not None
    output.say(describe_entry(assessment))
    if asking and not typer.confirm("add it?", default=True):
        raise ZooMemberError(path, "you declined to add it", "run the command again with other options")
    return _write(path, zoo, entry, manifest, copy=copy)


def _write(path: Path, zoo: Path, entry: ManifestMember, manifest: Any, *, copy: bool) -> ManifestMember:
    import shutil

    from dfml.zoo.manifest import write_manifest

    if copy:
        target = zoo / f"{entry.member_name}{path.suffix if path.is_file() else ''}"
        zoo.mkdir(parents=True, exist_ok=True)
        if path.resolve() != target.resolve():
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        entry = entry.model_copy(update={"path": target.name})
    write_manifest(zoo, manifest.with_member(entry))
    return entry


def describe_entry(assessment: Assessment) -> str:
    """One line: what is added, and how each part is known."""
    entry = assessment.entry
    assert entry is not None
    network = entry.network or (entry.architecture if isinstance(entry.architecture, str) else "a list of layers")
    labels = entry.labels
    classes = f"{labels} outputs without names" if isinstance(labels, int) else f"{len(labels or ())} classes"
    size = f"{entry.size[0]} x {entry.size[1]}" if isinstance(entry.size, tuple) else f"{entry.size} x {entry.size}"
    known = "; ".join(f"{part}: {how}" for part, how in entry.evidence.items())
    described = [
        network or assessment.found.detail,
        classes,
        f"{entry.channels} x {size} pixels",
        f"returns {entry.output}",
    ]
    if not entry.network and not entry.architecture:
        described = [assessment.found.kind.value, assessment.found.detail]
    return f"{entry.member_name}: {', '.join(filter(None, described))}. {known}"


def _ask(missing: Missing, stated: Stated) -> Stated:
    """Ask on the terminal for something that only the user can say.

    Raises:
        typer.Abort: If the user ends the question by Ctrl-C or Ctrl-D.
    """
    from dfml.cli.member_statement import read_size, read_values

    typer.echo(plain_text(missing.reason))
    fields = dict(stated.fields)
    if missing.field == "size":
        fields["size"] = read_size(typer.prompt("input size in pixels"))
    elif missing.field == "architecture":
        if missing.acceptable and typer.confirm("take it?", default=False):
            return replace(stated, accept_architecture=True)
        fields["architecture"] = typer.prompt("architecture (torchvision:NAME, timm:NAME, cifar_resnet:DEPTH)")
    else:
        if missing.acceptable and typer.confirm("take it?", default=False):
            return replace(stated, accept_preprocessing=True)
        fields["mean"] = read_values("--mean", typer.prompt("mean of pixels in 0..1", default="0"))
        fields["std"] = read_values("--std", typer.prompt("standard deviation of pixels in 0..1", default="1"))
    return replace(stated, fields=fields)
