"""A page that runs an exported ONNX file in the browser, with files that lie beside it and no other place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from dfml.files import atomic_write

RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs beside it: these files of the folder `dist` of the npm package onnxruntime-web."""


def write_page(path: Path, model: Path, labels: Sequence[str]) -> None:
    """Write the page.

    Args:
        path: Name of the page; an existing one is replaced.
        model: ONNX file, in the same folder.
        labels: Names of the classes, in the order of the probabilities.

    Raises:
        OSError: If the page cannot be written.
    """
    from jinja2 import Environment, select_autoescape

    template = Environment(autoescape=select_autoescape(default=True), keep_trailing_newline=True).from_string(
        files("dfml.export").joinpath("templates/classify.html").read_text(encoding="utf-8")
    )
    text = template.render(
        title=f"Which of {len(labels)} classes?",
        model=model.name,
        model_url=_in_script(quote(model.name)),
        labels=_in_script(list(labels)),
        runtime=", ".join(RUNTIME_FILES),
    )
    atomic_write(path, text)


def _in_script(value: object) -> object:
    """A value as JavaScript; no label can end the script or begin a tag."""
    from markupsafe import Markup

    return Markup(json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e"))
