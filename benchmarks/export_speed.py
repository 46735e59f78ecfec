"""Measure exported classifiers: sizes, parity, and milliseconds per image of PyTorch, ONNX Runtime and a browser.

    uv run python benchmarks/export_speed.py CLASSIFIER... --support FOLDER --images FOLDER --json result.json
        [--browser node_modules/onnxruntime-web/dist]

Each time is that of the fastest of 30 runs, on one thread, for one image and per image of a batch of 64: of the size of
the network (bytes to probabilities), and of 500 x 375 pixels, whose resizing is then part of the time. `--support` is
what the integers of int8 are calibrated on, `--images` what its loss is measured on. The browser is a headless Chromium
(Debian's packages chromium and chromium-driver).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfml.evaluation.protocol import versions
from dfml.export.browser_page import RUNTIME_FILES, write_page
from dfml.export.exported import compare, open_exported
from dfml.export.quantisation import quantise
from dfml.image_files import decode, is_image, read_file
from dfml.learners.classifier import FewShotClassifier

RUNS = 30
IN_BROWSER = """
const [shape, done] = arguments, images = new ort.Tensor("uint8", new Uint8Array(shape.reduce((a, b) => a * b)), shape);
(async () => {
  const times = [];
  for (let run = 0; run < 30; run++) {
    const start = performance.now();
    await (await session).run({ images });
    times.push(performance.now() - start);
  }
  done(Math.min(...times) / shape[0]);
})();
"""


def fastest(run: Callable[[], object]) -> float:
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def inputs(size: int) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Random bytes of images, by a description."""
    rng = np.random.default_rng(0)
    shapes = {"one": (1, size, size), "batch": (64, size, size), "photo": (1, 375, 500)}
    return {name: rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for name, shape in shapes.items()}


def read(folder: Path, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All images of a folder, at the size of the network."""
    files = sorted(path for path in folder.rglob("*") if is_image(path.name))
    return np.stack([read_file(path, lambda data: decode(data, size)).transpose(1, 2, 0) for path in files])


def in_browser(
    model: Path, labels: tuple[str, ...], shapes: dict[str, tuple[int, ...]], dist: Path
) -> dict[str, float]:
    """Milliseconds per image of the page in a headless Chromium."""
    from selenium import webdriver

    folder = model.parent
    for name in RUNTIME_FILES:
        shutil.copy(dist / name, folder / name)
    write_page(folder / "page.html", model, labels)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(600)
        driver.get(f"http://127.0.0.1:{server.server_port}/page.html")
        return {name: float(driver.execute_async_script(IN_BROWSER, list(shape))) for name, shape in shapes.items()}
    finally:
        driver.quit()
        server.shutdown()
        server.server_close()


def measure(folder: Path, support: Path, images: Path, browser: Path | None) -> dict[str, Any]:
    """All figures of one classifier."""
    classifier = FewShotClassifier.from_pretrained(folder)
    size, labels = classifier.preprocessing.size, classifier.labels
    given, tested = inputs(size), read(images, size)
    found: dict[str, Any] = {"labels": len(labels), "size": size, "images": len(tested), "milliseconds": {}}
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: Path(temporary) / f"{name}.onnx" for name in ("float", "weights", "int8")}
        classifier.export(files["float"])
        quantise(files["float"], files["weights"])
        quantise(files["float"], files["int8"], [read(support, size)])
        classifier.export(Path(temporary) / "program.pt2", to="pt2")
        found["bytes"] = {path.name: path.stat().st_size for path in sorted(Path(temporary).iterdir())}
        expected = classifier.predict_proba(tested).numpy()
        runs: dict[str, Callable[[Any], Any]] = {"torch": classifier.predict_proba}
        for name, path in files.items():
            runs[name] = open_exported(path, "onnx")
            found[f"{name} against dfml"] = vars(compare([(runs[name](tested), expected)]))
        for name, run in runs.items():
            found["milliseconds"][name] = {
                which: fastest(partial(run, pixels)) / len(pixels) for which, pixels in given.items()
            }
        if browser:
            shapes = {which: pixels.shape for which, pixels in given.items()}
            for name in ("float", "int8"):
                found["milliseconds"][f"browser, {name}"] = in_browser(files[name], labels, shapes, browser)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifiers", nargs="+", type=Path)
    parser.add_argument("--support", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--browser", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        str(folder): measure(folder, arguments.support, arguments.images, arguments.browser)
        for folder in arguments.classifiers
    }
    text = json.dumps({"versions": versions(), "classifiers": rows}, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
