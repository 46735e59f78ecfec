"""`dfml playground`: a learner in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.options import DeviceOption, SeedOption, ThreadsOption, prepare_torch
from dfml.cli.output import Output
from dfml.cli.output_folder import require_empty
from dfml.errors import RunError

_QUICKSTARTS = (Path("quickstart"), Path("playground"))  # where a quickstart's learner may be; built in the last


def playground(
    learner: Annotated[
        str | None,
        typer.Argument(
            metavar="LEARNER",
            help="Folder from `dfml train`, or METHOD:ZOO. Default: the quickstart's learner, in quickstart/ or "
            "playground/; it is trained first, in playground/, if there is none.",
        ),
    ] = None,
    recovered: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Output of `dfml invert`, to show in place of the learner's zoo."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port on the loopback address.")] = 7860,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Try a learner in the browser: name classes, drop images, see predictions, save the classifier.

    Only this machine can open the page, and nothing is sent elsewhere. Ctrl-C ends it. Needs the extra `serve`.
    """
    output = Output()
    from dfml.playground.server import require_free_port, require_gradio, serve_playground, wait_for_interrupt

    require_gradio()
    require_free_port(port)
    prepare_torch(threads)
    from dfml import open_learner
    from dfml.playground.zoo_view import open_zoo_view
    from dfml.training.progress import show_progress

    if recovered:
        open_zoo_view("", recovered)  # a wrong path is an error now, not in the browser
    name = learner or str(_quickstart_learner(seed, output))
    opened = open_learner(name, device, seed=seed, progress=show_progress)
    letters = learner is None
    with serve_playground(opened, name, lambda: open_zoo_view(name, recovered), port=port, examples=letters) as address:
        output.say(f"playground: {address} (Ctrl-C ends it)")
        wait_for_interrupt()
    output.say("playground closed; files that were not downloaded are gone")


def _quickstart_learner(seed: int, output: Output) -> Path:
    """Folder of the quickstart's learner, which is trained if there is none.

    Raises:
        RunError: If there is a folder of its name with something else, such as an unfinished training.
    """
    from dfml.demo.quickstart_folder import QuickstartFolder
    from dfml.demo.run import train_quickstart_learner
    from dfml.learners.saving import CONFIG
    from dfml.methods.zoo_student import ZooStudent
    from dfml.training.loop import Interrupted
    from dfml.training.progress import show_progress

    folders = [QuickstartFolder(path) for path in _QUICKSTARTS]
    for folder in folders:
        found = folder.run_folder(ZooStudent.name)
        if (found / CONFIG).is_file():
            return found
    try:
        require_empty(folders[-1].path)
    except RunError as error:
        raise RunError(
            f"{folders[-1].path} holds no finished learner; if no other playground is training it now, remove the "
            "folder, or give a learner: dfml playground LEARNER"
        ) from error
    output.say(f"there is no quickstart yet: training its learner in {folders[-1].path}, about a minute")
    try:
        train_quickstart_learner(
            folders[-1],
            seed=seed,
            report=lambda stage, seconds, outcome: output.say(f"{seconds:6.1f} s  {stage}: {outcome}"),
            watch=show_progress,
        )
    except Interrupted as stop:
        show_error(f"{stop}; remove {folders[-1].path} and start again")
        raise typer.Exit(stop.exit_code) from stop
    return folders[-1].run_folder(ZooStudent.name)
