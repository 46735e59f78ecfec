"""The page runs the exported file in a real browser: headless Chromium, Debian's packages chromium(-driver)."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfml.export.browser_page import RUNTIME_FILES, write_page
from tests.export.test_formats import CLASSIFIERS
from tests.factories import images

# Folder `dist` of the npm package onnxruntime-web.
RUNTIME = Path(os.environ.get("DFML_ONNXRUNTIME_WEB", "node_modules/onnxruntime-web/dist"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the test's folder on the loopback address, with the runtime."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: apt-get install chromium chromium-driver)")
    if not (RUNTIME / RUNTIME_FILES[0]).exists():
        pytest.skip(f"no onnxruntime-web at {RUNTIME}: npm install onnxruntime-web, or set DFML_ONNXRUNTIME_WEB")
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / name, tmp_path / name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of selenium and the sockets that the browser closes
@pytest.mark.parametrize("name", ["student, centred, ridge", "maml"])
def test_the_page_classifies_an_image_as_dfml_does(name: str, address: str, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    classifier = CLASSIFIERS[name]()
    classifier.export(tmp_path / "my model.onnx")
    write_page(tmp_path / "page.html", tmp_path / "my model.onnx", classifier.labels)
    pixels = (255 * images(1, 3, size=37)[0]).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(f"{address}/page.html")
        driver.find_element(By.ID, "file").send_keys(str(tmp_path / "image.png"))
        answer = driver.find_element(By.ID, "answer")
        WebDriverWait(driver, 120).until(lambda _: answer.text)
        lines = answer.text.splitlines()
        asked = [entry["message"] for entry in driver.get_log("performance")]
    finally:
        driver.quit()
    probabilities = classifier.predict_proba(pixels)
    expected = sorted(zip(classifier.labels, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])
    assert len(lines) == 3, lines
    for line, (label, probability) in zip(lines, expected, strict=True):
        shown_label, shown = line.rsplit(": ", 1)
        assert shown_label == label  # one of them holds a tag, which is shown as text
        assert float(shown.removesuffix(" %")) == pytest.approx(100 * probability, abs=0.06)
    sent = [message for message in asked if 'Network.requestWillBeSent"' in message]
    assert sent
    assert all(address in message for message in sent)


def test_a_label_cannot_leave_the_script(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", tmp_path / "a 'b'.onnx", ["</script><b>", "\"'"])
    text = (tmp_path / "page.html").read_text()
    assert text.count("</script>") == 2
    assert "<b>" not in text
    assert '"a%20%27b%27.onnx"' in text
