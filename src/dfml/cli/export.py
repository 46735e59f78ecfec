"""`dfml export`: a classifier as one file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dfml.cli.image_paths import find_images
from dfml.cli.options import JsonOption, ThreadsOption, prepare_torch
from dfml.cli.output import Output, require_writable
from dfml.errors import LearnerError, UsageError

if TYPE_CHECKING:
    from dfml.export.exported import Bytes, Predict
    from dfml.learners.classifier import FewShotClassifier

# Largest difference of a probability to `predict_proba`, for the same pixels.
_TOLERANCE = 1e-4


def export(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER", help="Folder from `dfml adapt`.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write; it must not exist.")],
    to: Annotated[
        Literal["onnx", "pt2"],
        typer.Option(help="onnx: for ONNX Runtime and others (extra `onnx`). pt2: a program of torch.export."),
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Store weights as 8-bit integers; with --calibrate-with, compute with integers."),
    ] = False,
    calibrate_with: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Images whose activations set the ranges of --int8. Repeatable."),
    ] = None,
    check_with: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Files, a folder or a pattern to compare predictions on. Repeatable."),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Also write FILE.html, a page that runs the file in a browser.")
    ] = False,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Export a classifier to a file: bytes of images of any size in, probabilities of the labels out."""
    output = Output(json_file)
    page_file = out.with_name(f"{out.name}.html")
    _check_options(to, out, int8, calibrate_with, page_file if page else None)
    checked, shown = find_images(check_with or []), find_images(calibrate_with or [])
    prepare_torch(threads)
    from tempfile import TemporaryDirectory

    from dfml import FewShotClassifier
    from dfml.export.browser_page import RUNTIME_FILES, write_page
    from dfml.export.exported import open_exported
    from dfml.export.quantisation import quantise
    from dfml.files import atomic_write

    model = FewShotClassifier.from_pretrained(classifier)
    results: dict[str, Any] = {"file": out, "format": to, "labels": list(model.labels)}
    with TemporaryDirectory() as folder:
        exported, small = Path(folder) / "exported", Path(folder) / "int8"
        model.export(exported, to=to)
        predict = open_exported(exported, to)
        results["parity"] = _parity(model, predict)
        output.say(f"same pixels: largest difference of a probability {results['parity']:.2g} to dfml")
        if int8:
            size = model.preprocessing.size
            quantise(exported, small, [_read_square(path, size) for path in shown] or None)
        if int8 and (checked or shown):
            smaller = open_exported(small, to)
            loss = _compare(predict, smaller, [_read(path) for path in checked] or [_read(path) for path in shown])
            output.say(f"int8: {loss}")
            results["int8"] = vars(loss)
        elif int8:
            output.say("int8: its loss is not measured; name images with --check-with")
        if checked:
            agreement = _agreement_on_files(model, open_exported(small, to) if int8 else predict, checked)
            output.say(f"files, decoded and resized by dfml on one side and by the graph on the other: {agreement}")
            results["files"] = vars(agreement)
        atomic_write(out, (small if int8 else exported).read_bytes())
    results["bytes"] = out.stat().st_size
    output.say(f"{out}: {results['bytes'] / 1e6:.2f} MB, labels {', '.join(model.labels)}")
    if page:
        write_page(page_file, out, model.labels)
        output.say(f"{page_file}: put {', '.join(RUNTIME_FILES)} (npm package onnxruntime-web, folder dist) beside it")
        output.say(f"next: python -m http.server --bind 127.0.0.1 --directory {out.parent}")
        results["page"] = page_file
    output.results(results)


def _check_options(to: str, out: Path, int8: bool, calibrate_with: list[str] | None, page: Path | None) -> None:
    if to == "pt2" and (int8 or page):
        raise UsageError("--int8 and --page are for ONNX files; leave them out, or choose --to onnx")
    if calibrate_with and not int8:
        raise UsageError("--calibrate-with sets the ranges of --int8, which is not given; add it")
    for file in (out, page):
        if file is None:
            continue
        require_writable("--out", file)
        if file.exists():
            raise UsageError(f"--out {file} exists already; choose another name, or remove it first")


def _parity(model: FewShotClassifier, predict: Predict) -> float:
    """Largest difference of a probability, for random images of the network's size and of another one."""
    import torch

    from dfml.images import to_float
    from dfml.seeds import generator

    size, largest = model.preprocessing.size, 0.0
    for height, width in ((size, size), (2 * size + 3, size + 7)):
        random = generator(0, "export", height)
        pixels = torch.randint(0, 256, (4, height, width, 3), dtype=torch.uint8, generator=random)
        expected = model.predict_proba(to_float(pixels.permute(0, 3, 1, 2)))
        found = torch.from_numpy(predict(pixels.numpy()))
        largest = max(largest, float((found - expected).abs().max()))
    if not largest <= _TOLERANCE:
        raise LearnerError(
            f"the exported file differs from the classifier: expected probabilities within {_TOLERANCE:g}, found a "
            f"difference of {largest:.2g}; no file was written. Use `dfml predict`, or export to the other format"
        )
    return largest


def _read(path: Path) -> Bytes:
    """One image as the graph takes it, at its own size."""
    from dfml.image_files import decode_whole, read_file

    return read_file(path, decode_whole)[None]


def _read_square(path: Path, size: int) -> Bytes:
    from dfml.image_files import decode, read_file

    return read_file(path, lambda data: decode(data, size)).transpose(1, 2, 0)[None].copy()


def _compare(first: Predict, second: Predict, images: list[Bytes]) -> Any:
    from dfml.export.exported import compare

    return compare((first(image), second(image)) for image in images)


def _agreement_on_files(model: FewShotClassifier, predict: Predict, paths: list[Path]) -> Any:
    import torch

    from dfml.export.exported import compare
    from dfml.images import to_float

    def both(path: Path) -> tuple[Any, Any]:
        pixels = torch.from_numpy(_read_square(path, model.preprocessing.size))
        return model.predict_proba(to_float(pixels.permute(0, 3, 1, 2))).numpy(), predict(_read(path))

    return compare(both(path) for path in paths)
