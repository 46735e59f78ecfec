"""`dfml train`: from a zoo to a learner, the main job."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfml.cli.options import DeviceOption, IdentityOption, JsonOption, Protocol, ThreadsOption, prepare_torch
from dfml.cli.output import Output, to_json
from dfml.errors import RunError, UsageError

if TYPE_CHECKING:
    from dfml.training.run_folder import RunFolder

_OVERRIDES = "Settings (each overrides --config and --set)"


def train(
    zoo: Annotated[
        Path | None, typer.Argument(metavar="ZOO", help="Folder of classifiers; may be left to the --config file.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="zoo_student (default), purer, free, random_init, random_embedding, average, ot_fusion, dro, "
            "best_member, zoo_embedding; or MODULE:CLASS, a method in a Python file of your own.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="LEARNER", help="Folder of the run and its learner.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, to the same end as without interruption.")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CHECKPOINT", help="Begin with a checkpoint of another run (RUN/checkpoints/N)."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Named settings of the method, such as cpu.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings as in a run's config.yaml, which repeats it."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One setting, such as zoo_student.backbone=conv4_64. Repeatable."
        ),
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print every setting, its value and what it means; train nothing.")
    ] = False,
    class_identity: IdentityOption = None,
    way: Annotated[int | None, typer.Option(rich_help_panel=_OVERRIDES, help="Classes an episode.")] = None,
    shot: Annotated[int | None, typer.Option(rich_help_panel=_OVERRIDES, help="Support images a class.")] = None,
    query: Annotated[int | None, typer.Option(rich_help_panel=_OVERRIDES, help="Query images a class.")] = None,
    protocol: Annotated[
        Protocol | None, typer.Option(rich_help_panel=_OVERRIDES, help="Of training and adaptation.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(rich_help_panel=_OVERRIDES, help="Meta-iterations.")] = None,
    seed: Annotated[int | None, typer.Option(rich_help_panel=_OVERRIDES, help="Of all random draws.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Turn a zoo into a few-shot learner, without any image.

    `dfml train --show-config --method NAME` lists all settings. Layers, each over the one before: defaults, --preset,
    --config, --set, options.
    """
    output = Output(json_file)
    from dfml.cli import run_config as settings

    file = settings.read_run_file(config_file, method) if config_file else settings.RunFile()
    kind = settings.choose_method(method, file)
    options = {"way": way, "shot": shot, "query": query, "protocol": protocol, "iterations": iterations, "seed": seed}
    config = settings.resolve(kind, preset, file, assignments or [], options)
    place = zoo or (Path(file.zoo) if file.zoo else None)
    if show_config:
        typer.echo(settings.explain(config, kind.name, str(place) if place else None), nl=False)
        return
    if place is None:
        raise UsageError("expected the folder of a zoo: dfml train ZOO --out LEARNER")
    if out is None:
        raise UsageError("expected a folder for the learner: --out LEARNER")

    from dfml.evaluation.protocol import versions
    from dfml.report.training import PAGE, write_training
    from dfml.training.progress import show_progress
    from dfml.training.run_folder import RunFolder
    from dfml.zoo.label_space import read_identity
    from dfml.zoo.zoo import Zoo

    prepare_torch(threads)
    # An absolute path, so that the run's config.yaml means the same zoo from wherever it is used.
    identity = read_identity(class_identity) if class_identity else file.class_identity
    members = Zoo.open(place.resolve(), class_identity=identity)
    output.say(f"{kind.name} on {len(members)} classifiers of {len(members.classes)} classes")
    began = time.perf_counter()
    done = _iterations_before(RunFolder(out) if resume else None, start_from)
    progress = show_progress(kind.name, config.iterations, done) if config.iterations else None
    trained = kind(config)
    trained.fit(members, out=out, resume=resume, start_from=start_from, device=device, progress=progress)

    run = RunFolder(out)
    rows = run.read_metrics()
    seconds = sum(row["seconds"] for row in rows) if rows else time.perf_counter() - began
    about: dict[str, Any] = {"seconds": round(seconds, 3), "iterations": config.iterations}
    results = {
        "methods": {kind.name: about},
        **config.model_dump(include={"way", "shot", "protocol", "seed"}),
        "zoo": str(members.path),
        "members": len(members),
        "versions": versions(),
    }
    (out / "results.json").write_text(to_json(results), encoding="utf-8")
    output.results(results)
    output.say(f"learner: {out} ({seconds:.1f} s)")
    output.say(f"next: dfml evaluate {out} DATA --way {config.way} --shot {config.shot} --protocol {config.protocol}")
    command = shlex.join(["dfml", *sys.argv[1:]])
    write_training(run, trained.run_, kind.name, config, members, seconds=seconds, command=command)
    output.say(f"report: {out / PAGE}")


def _iterations_before(resumed: RunFolder | None, start_from: Path | None) -> int:
    """Meta-iterations that the checkpoint to begin with has behind it, for the progress bar.

    Raises:
        RunError: If there is no checkpoint where the user says; better now than when the run's folder is made.
    """
    from dfml.training.checkpoint import list_checkpoints

    newest = resumed.newest_checkpoint() if resumed else None
    if newest:
        return int(newest.name)
    start = start_from or (resumed.started_from() if resumed else None)
    if start and start not in list_checkpoints(start.parent):
        raise RunError(f"expected a checkpoint (RUN/checkpoints/N) at --from {start}, found none; check the path")
    return int(start.name) if start else 0
