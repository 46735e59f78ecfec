"""`dfml train`: turn a zoo into a few-shot learner."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfml.cli.options import (
    DEFAULT_METHOD,
    MAX_RESIDENT,
    METHOD_NAMES,
    DeviceOption,
    IdentityOption,
    JsonOption,
    MaxResidentOption,
    NetworksOption,
    OnBadMemberOption,
    Protocol,
    ThreadsOption,
    prepare_torch,
    read_networks,
)
from dfml.cli.output import Output, say_left_out, to_json
from dfml.errors import UsageError
from dfml.files import atomic_write

if TYPE_CHECKING:
    from dfml.training.run_folder import RunFolder
    from dfml.zoo.label_space import ClassIdentity

_SETTINGS = "Settings of the method (override all others)"


def train(
    zoo: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ZOO...",
            help="Folder of classifiers; several become one zoo. May be omitted if the --config file names it.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{DEFAULT_METHOD} (default), {', '.join(METHOD_NAMES[1:])}, a method of an installed package, or "
            "MODULE:CLASS from a Python file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="LEARNER", help="Folder for the run and its learner; new or empty, unless --resume is given."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out to the same result as without the interruption.")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Start from a checkpoint of another run: RUN/checkpoints/N, or RUN for the newest one. zoo_student "
            "continues with further members.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Named group of settings of the method, such as cpu.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file of settings, such as the config.yaml of a run, which repeats that run; it starts from the "
            "same checkpoint, unless --from names another.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One setting, such as purer.learner.kind=anil. Can be repeated."
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write all metrics to OUT/tensorboard for TensorBoard (extra tensorboard)."
        ),
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print all settings with values and meanings, and exit.")
    ] = False,
    class_identity: IdentityOption = None,
    network: NetworksOption = None,
    on_bad_member: OnBadMemberOption = "fail",
    way: Annotated[
        int | None, typer.Option(rich_help_panel=_SETTINGS, metavar="N", help="Classes per episode.")
    ] = None,
    shot: Annotated[
        int | None, typer.Option(rich_help_panel=_SETTINGS, metavar="N", help="Support images per class.")
    ] = None,
    query: Annotated[
        int | None, typer.Option(rich_help_panel=_SETTINGS, metavar="N", help="Query images per class.")
    ] = None,
    protocol: Annotated[
        Protocol | None, typer.Option(rich_help_panel=_SETTINGS, help="Protocol that the learner will be evaluated by.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_SETTINGS,
            metavar="N",
            help="Side length in pixels at which the learner works (img_size). Default: the members' most common input "
            "size, the larger one on a tie.",
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(rich_help_panel=_SETTINGS, metavar="N", help="Number of meta-iterations.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(rich_help_panel=_SETTINGS, metavar="N", help="Seed of all random numbers.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_resident: MaxResidentOption = MAX_RESIDENT,
    json_file: JsonOption = None,
) -> None:
    """Train a few-shot learner from a zoo of classifiers, without any of their training images.

    Settings come in layers; a later one overrides those before it: defaults of the method, --preset, --config, --set,
    and the options listed as settings below. `dfml train --method NAME --show-config` prints all settings.
    """
    output = Output(json_file)
    from dfml.cli import run_config

    file = run_config.read_run_file(config_file, method) if config_file else run_config.RunFile()
    kind = run_config.choose_method(method, file)
    options = {
        "way": way,
        "shot": shot,
        "query": query,
        "protocol": protocol,
        "img_size": size,
        "iterations": iterations,
        "seed": seed,
    }
    config = run_config.resolve(kind, preset, file, assignments or [], options)
    zoo = zoo or [Path(path) for path in file.zoo]
    start_from = start_from or (Path(file.start_from) if file.start_from else None)
    if show_config:
        typer.echo(run_config.explain(config, kind.name, [str(path) for path in zoo]), nl=False)
        return
    if not zoo:
        raise UsageError("expected the folder of a zoo: dfml train ZOO... --out LEARNER")
    if out is None:
        raise UsageError("expected a folder for the learner: --out LEARNER")

    from dfml.cli.class_identity import resolve_identity
    from dfml.evaluation.protocol import versions
    from dfml.report.training import PAGE, LivePage, write_training
    from dfml.training.progress import show_progress
    from dfml.training.run_folder import RunFolder
    from dfml.zoo.hub import absolute_path
    from dfml.zoo.zoo import Zoo

    prepare_torch(threads)
    networks = read_networks(network)
    # A run that is resumed or repeated has the same members, also if one that was left out can be used by now.
    leave_out = RunFolder(out).left_out() if resume else file.left_out
    opening: Any = {"max_resident": max_resident, "on_bad_member": on_bad_member, "leave_out": leave_out}
    identity: ClassIdentity = file.class_identity
    if class_identity:
        identity = resolve_identity(class_identity, zoo, output, networks, **opening)
    # Absolute paths, so that the run's config.yaml names the same zoo in every working directory.
    paths = [absolute_path(path) for path in zoo]
    members = Zoo.open(paths, class_identity=identity, networks=networks, **opening)
    say_left_out(output, members.left_out)
    output.say(f"{kind.name} on {len(members)} classifiers of {len(members.classes)} classes")
    start = time.perf_counter()
    done = _iterations_before(RunFolder(out) if resume else None, start_from)
    progress = show_progress(kind.name, config.iterations, done) if config.iterations else None
    trained, run = kind(config), RunFolder(out)
    command = shlex.join(["dfml", *sys.argv[1:]])
    observers: list[Any] = [LivePage(lambda: trained.run_, kind.name, config, run, members, command)]
    log = None
    if tensorboard:
        from dfml.training.tensorboard import TensorBoardLog

        log = TensorBoardLog(out / "tensorboard", done)
        observers.append(log)

    def observe(iteration: int, metrics: Mapping[str, float]) -> None:
        for observer in observers:
            observer(iteration, metrics)

    try:
        trained.fit(
            members,
            out=out,
            resume=resume,
            start_from=start_from,
            device=device,
            progress=progress,
            on_iteration=observe,
        )
    finally:
        if log:
            log.close()
    rows = run.read_metrics()
    seconds = sum(row["seconds"] for row in rows) if rows else time.perf_counter() - start
    summary: dict[str, Any] = {"seconds": round(seconds, 3), "iterations": config.iterations}
    results = {
        "methods": {kind.name: summary},
        **config.model_dump(include={"way", "shot", "protocol", "seed"}),
        "zoo": members.source,
        "members": len(members),
        "left_out": dict(members.left_out),
        "versions": versions(),
    }
    atomic_write(out / "results.json", to_json(results))
    output.results(results)
    output.say(f"learner: {out} ({seconds:.1f} s)")
    output.say(f"next: dfml evaluate {out} DATA --way {config.way} --shot {config.shot} --protocol {config.protocol}")
    write_training(run, trained.run_, kind.name, config, members, seconds=seconds, command=command)
    output.say(f"report: {out / PAGE}")


def _iterations_before(resumed: RunFolder | None, start_from: Path | None) -> int:
    """Number of finished meta-iterations of the checkpoint that the run starts from, for the progress bar.

    Raises:
        RunError: If there is no checkpoint at `start_from`; raised here, before the run's folder is made.
    """
    from dfml.training.run_folder import find_checkpoint

    newest = resumed.newest_checkpoint() if resumed else None
    if newest:
        return int(newest.name)
    start = start_from or (resumed.started_from() if resumed else None)
    return int(find_checkpoint(start).name) if start else 0
