"""The playground as a visitor uses it: a real Chromium without a window, driven through Selenium."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest

from dfml.learners import MetaLearner
from tests.cli.conftest import results
from tests.playground.conftest import WriteImages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
LABEL = "<b>warm</b> & red"
PATIENCE = 240  # seconds; a machine may be busy with other tests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium with its driver (Debian: chromium, chromium-driver)"
    ),
    # What the libraries warn of in this process is not about dfml.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def server(learner: MetaLearner, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A playground in a process of its own, with an untrained learner: (port, process)."""
    learner.save_pretrained(tmp_path / "learner")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dfml", "playground", "learner", "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        yield port, process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.fixture
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What a visitor does on the page."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.browser, PATIENCE, 0.1, [StaleElementReferenceException])
        return waiting.until(lambda _: condition())

    def find(self, css: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", css))

    def text(self, css: str) -> str:
        found = self.find(css)
        return str(found[0].text) if found else ""

    def wait_for_status(self, text: str) -> None:
        self.wait(lambda: text in self.text("#status"))

    def drop(self, css: str, files: list[str]) -> None:
        inputs = self.wait(lambda: self.find(f"{css} input[type=file][multiple]"))
        inputs[0].send_keys("\n".join(files))

    def rename(self, number: int, name: str) -> None:
        field = self.find(f"#class-{number} .head input, #class-{number} .head textarea")[0]
        field.clear()
        field.send_keys(name + "\ue007")  # Enter

    def press(self, label: str) -> None:
        buttons = [each for each in self.find("button") if each.text.strip() == label and each.is_displayed()]
        buttons[0].click()

    def addresses(self) -> set[str]:
        """Hosts of all requests so far, without those of data in the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).hostname or "" for url in sent if not url.startswith(("data:", "blob:", "chrome:"))}


def test_build_two_classes_predict_save_and_load(
    server: tuple[int, subprocess.Popen[str]], browser: Any, images: WriteImages, tmp_path: Path
) -> None:
    port, process = server
    page = Page(browser)
    browser.get(f"http://127.0.0.1:{port}")
    page.wait_for_status("Give two classes at least one image each.")

    # Two classes; a name that looks like HTML, and a file that is no image.
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    page.rename(0, LABEL)
    page.drop("#class-0", [*images("red", 3), str(tmp_path / "letter.png")])
    page.wait_for_status("letter.png is left out")
    page.wait_for_status(f"Only {LABEL} has images")
    page.wait(lambda: len(page.find("#class-0 .thumbnail-item")) == 3)
    page.drop("#class-1", images("blue", 3))
    page.wait_for_status("Adapted to 2 classes and 6 images")

    # Test images; one is unlike both classes.
    page.drop("#tests", [*images("red", 1, "tests"), *images("green", 1, "tests")])
    page.wait(lambda: len(page.find(".prediction")) == 2)
    assert page.text(".prediction .label span") == LABEL
    assert [len(each.find_elements("css selector", ".warn")) for each in page.find(".prediction")] == [0, 1]

    # The answer follows an edit; a name that is taken is explained.
    page.rename(1, LABEL)
    page.wait_for_status(f"2 classes have the name {LABEL}")
    page.rename(1, "cold")
    page.wait_for_status("Adapted to 2 classes")
    page.wait(lambda: "cold" in page.text(".prediction"))

    # Another tab has a session of its own.
    browser.switch_to.new_window("tab")
    browser.get(f"http://127.0.0.1:{port}")
    page.wait_for_status("Give two classes at least one image each.")
    browser.close()
    browser.switch_to.window(browser.window_handles[0])
    assert "Adapted to 2 classes" in page.text("#status")

    # What is saved is what `dfml adapt` writes.
    page.press("Save the classifier")
    link = page.wait(lambda: page.find("#saved a"))[0].get_attribute("href")
    with urlopen(link) as response:
        zipfile.ZipFile(io.BytesIO(response.read())).extractall(tmp_path)
    (predicted,) = results("predict", tmp_path / "classifier", *images("red", 1, "tests"))["predictions"]
    assert predicted["labels"][0]["label"] == LABEL

    # The zoo is not known from this learner's folder, which is said.
    page.press("Zoo")
    page.wait(lambda: "is no run of `dfml train`" in page.text("#zoo-heading"))

    # The loopback address only, in the browser and in the server.
    assert page.addresses() == {"127.0.0.1"}
    connections = psutil.Process(process.pid).net_connections("inet")
    assert {each.laddr.ip for each in connections} == {"127.0.0.1"}


def test_the_keyboard_alone_reaches_everything(server: tuple[int, subprocess.Popen[str]], browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page = Page(browser)
    browser.get(f"http://127.0.0.1:{server[0]}")
    page.wait_for_status("Give two classes at least one image each.")
    reached = []
    for _ in range(40):
        ActionChains(browser).send_keys("\ue004").perform()  # Tab
        element = browser.switch_to.active_element
        reached.append((element.get_attribute("aria-label") or element.text or element.get_attribute("value")).strip())
        if reached[-1] == "Add a class":
            break
    assert reached[-1] == "Add a class"
    assert {"Classifier", "Add a folder", "Remove"} <= set(reached)
    assert reached.count("Click to upload or drop files") == 2
    ActionChains(browser).send_keys("\ue007").perform()
    page.wait(lambda: page.find("#class-2") and page.find("#class-2")[0].is_displayed())
