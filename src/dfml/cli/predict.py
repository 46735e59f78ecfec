"""`dfml predict`: the most probable classes of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfml.cli.error_handling import show_error
from dfml.cli.options import JsonOption, ThreadsOption, prepare_torch
from dfml.cli.output import Output
from dfml.errors import DataError

_BATCH = 256  # images in memory at once


def predict(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER", help="Folder from `dfml adapt`.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files of any size.")],
    top: Annotated[
        int, typer.Option(min=1, metavar="K", help="Number of labels per image, the most probable first.")
    ] = 1,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Predict the class of each image.

    Images that cannot be read are reported and skipped; the exit code is 1 then.
    """
    output = Output(json_file)
    prepare_torch(threads)
    import torch

    from dfml import FewShotClassifier
    from dfml.data.support import read_image

    model = FewShotClassifier.from_pretrained(classifier)
    predictions, failures = [], []
    for start in range(0, len(images), _BATCH):
        read = []
        for path in images[start : start + _BATCH]:
            try:
                read.append((path, read_image(path, model.preprocessing.size)))
            except DataError as error:
                show_error(str(error))
                failures.append({"image": str(path), "error": str(error)})
        if not read:
            continue
        probabilities = model.predict_proba(torch.stack([pixels for _, pixels in read]), batch_size=_BATCH)
        for (path, _), row in zip(read, probabilities, strict=True):
            values, indices = row.topk(min(top, len(model.labels)))
            labels = [
                {"label": model.labels[index], "probability": value}
                for index, value in zip(indices.tolist(), values.tolist(), strict=True)
            ]
            output.say(f"{path}: " + ", ".join(f"{each['label']} {each['probability']:.1%}" for each in labels))
            predictions.append({"image": str(path), "labels": labels})
    output.results({"predictions": predictions, "failures": failures})
    if failures:
        raise typer.Exit(1)
