"""`dfml predict`: the most probable classes of images."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.image_paths import find_images
from dfml.cli.options import JsonOption, ThreadsOption, prepare_torch
from dfml.cli.output import Output, require_writable
from dfml.errors import DataError

if TYPE_CHECKING:
    from dfml.learners.classifier import FewShotClassifier

_BATCH = 64  # images in memory at once
_MANY = 64  # from here on, progress is shown


def predict(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER", help="Folder from `dfml adapt`.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Image files of any size, folders of them, or patterns (photos/*.jpg)."
        ),
    ],
    top: Annotated[
        int, typer.Option(min=1, metavar="K", help="Number of labels per image, the most probable first.")
    ] = 1,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Also write a table: image, label, probability of every class."),
    ] = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Predict the class of each image.

    Images that cannot be read are reported and skipped; the exit code is 1 then.
    """
    output = Output(json_file)
    if csv_file:
        require_writable("--csv", csv_file)
    paths = find_images(images)
    prepare_torch(threads)
    from dfml.learners.classifier import FewShotClassifier

    model = FewShotClassifier.from_pretrained(classifier)
    predictions: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    with ExitStack() as stack:
        table = stack.enter_context(_table(csv_file, model.labels))
        say, done = stack.enter_context(_lines(output, len(paths)))
        for start in range(0, len(paths), _BATCH):
            some = paths[start : start + _BATCH]
            for path, row in _probabilities(model, some, failures):
                best = sorted(zip(model.labels, row, strict=True), key=lambda pair: -pair[1])[:top]
                say(f"{path}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in best))
                if table:
                    table.writerow([path, *best[0], *row])
                labels = [{"label": label, "probability": probability} for label, probability in best]
                predictions.append({"image": str(path), "labels": labels})
            done(start + len(some))
    if csv_file:
        output.say(f"table: {csv_file}")
    output.results({"predictions": predictions, "failures": failures, **({"csv": csv_file} if csv_file else {})})
    if failures:
        raise typer.Exit(1)


def _probabilities(
    model: FewShotClassifier, paths: Sequence[Path], failures: list[dict[str, str]]
) -> Iterator[tuple[Path, list[float]]]:
    """Probabilities of the images that can be read; the others are reported and added to `failures`."""
    import torch

    from dfml.image_inputs import ImageBatch

    read = []
    for path in paths:
        try:
            read.append((path, ImageBatch(path).read(model.preprocessing.size)[0]))
        except DataError as error:
            show_error(str(error))
            failures.append({"image": str(path), "error": str(error)})
    if read:
        rows = model.predict_proba(torch.stack([pixels for _, pixels in read])).tolist()
        yield from zip((path for path, _ in read), rows, strict=True)


@contextmanager
def _table(file: Path | None, labels: Sequence[str]) -> Iterator[Any]:
    """A writer of rows, which are in the file as soon as they are written; None without a file."""
    if file is None:
        yield None
        return
    with file.open("w", encoding="utf-8", newline="", buffering=1) as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "probability", *(f"probability of {label}" for label in labels)])
        yield writer


@contextmanager
def _lines(output: Output, total: int) -> Iterator[tuple[Any, Any]]:
    """Functions that print a line, and that say how many images are done.

    On a terminal, lines wait until the bar is gone; after an interruption they are printed, too.
    """
    if total <= _MANY:
        yield output.say, lambda done: None
        return
    from dfml.training.progress import show_progress

    waiting: list[str] = []
    try:
        with show_progress("predict", total) as progress:
            same_screen = sys.stderr.isatty() and sys.stdout.isatty()
            yield waiting.append if same_screen else output.say, lambda done: progress.update(done, {})
    finally:
        for line in waiting:
            output.say(line)
