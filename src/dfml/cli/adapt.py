"""`dfml adapt`: turn a few labelled images into a classifier of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dfml.cli.options import (
    MAX_RESIDENT,
    CalibrationOption,
    DeviceOption,
    JsonOption,
    MaxResidentOption,
    SeedOption,
    ThreadsOption,
    prepare_torch,
)
from dfml.cli.output import Output
from dfml.cli.output_folder import new_folder, report_write_errors

if TYPE_CHECKING:
    from dfml.learners.base import Calibration


def adapt(
    learner: Annotated[
        str,
        typer.Argument(
            metavar="LEARNER",
            help="Folder from `dfml train`, or METHOD:ZOO for a method with little or no training (zoo_embedding:ZOO).",
        ),
    ],
    support: Annotated[
        Path, typer.Argument(metavar="SUPPORT_DIR", help="Folder class/image with one or a few images per class.")
    ],
    out: Annotated[Path, typer.Option(metavar="CLASSIFIER", help="Folder for the classifier; new or empty.")],
    calibration: CalibrationOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_resident: MaxResidentOption = MAX_RESIDENT,
    json_file: JsonOption = None,
) -> None:
    """Adapt a learner to new classes, from one or a few labelled images of each."""
    output = Output(json_file)
    prepare_torch(threads)
    with new_folder(out) as unfinished:
        from dfml import open_learner
        from dfml.data.support import read_support
        from dfml.training.progress import show_progress

        opened = open_learner(learner, device, seed=seed, progress=show_progress, max_resident=max_resident)
        chosen: Calibration | Literal["own"] | None = None if calibration else "own"
        if calibration == "icfil":
            from dfml.learners import CALIBRATIONS

            chosen = CALIBRATIONS[calibration]()
        images, labels, names = read_support(support, opened.preprocessing.size)
        classifier = opened.adapt(images, labels, names, calibration=chosen)
        with report_write_errors(out):
            classifier.save_pretrained(unfinished)
    counts = dict(zip(names, labels.bincount().tolist(), strict=True))
    output.say("classes: " + ", ".join(f"{name} ({count})" for name, count in counts.items()))
    output.say(f"classifier: {out}")
    output.say(f"next: dfml predict {out} IMAGE...")
    output.results({"classifier": out, "learner": opened.name, "classes": counts})
