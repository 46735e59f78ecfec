"""The Python examples of the pages on extensions run as they stand, one after the other, in a folder with a zoo."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfml.images import to_pil
from dfml.learners import Student
from dfml.registries import Registry
from dfml.zoo import formats
from tests.factories import PREPROCESSING, images, written_zoo

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("new-engine.md", "new-loss-term.md", "new-format.md", "black-box-members.md", "new-split.md")
BLOCK = re.compile(r"^```python\n(?:\"\"\"`(\w+)\.py`:.*?\n)?(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def _zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with `zoo/`; what the examples register and import is forgotten afterwards."""
    monkeypatch.setenv("DFML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "_registered", {})
    written_zoo(tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    register = Registry.register
    registered: list[tuple[Registry[object], str]] = []

    def record(self: Registry[object], name: str, part: object) -> None:
        register(self, name, part)
        registered.append((self, name))

    monkeypatch.setattr(Registry, "register", record)
    yield
    for registry, name in registered:
        registry._registered.pop(name)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.usefixtures("_zoo")
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page: str) -> None:
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert blocks
    for name, code in blocks:
        if name:  # a file that a later example imports
            Path(f"{name}.py").write_text(code, encoding="utf-8")
        else:
            exec(compile(code, page, "exec"), {"__name__": "example"})


@pytest.mark.slow
def test_the_examples_of_using_classifiers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Student.untrained("conv4", {}, (3, 2), PREPROCESSING).save_pretrained("learner")
    names = ("unknown.jpg", "a.jpg", "b.jpg", "c.jpg", "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg")
    for name, image in zip(names, images(len(names), size=20), strict=True):
        Path(name).parent.mkdir(exist_ok=True)
        to_pil(image).save(name)
    first, onnx, sklearn = (code for _, code in BLOCK.findall((DOCS / "using-classifiers.md").read_text("utf-8")))
    values: dict[str, object] = {"__name__": "example"}
    exec(compile(first, "first", "exec"), values)
    values["classifier"].export("classifier.onnx")  # type: ignore[attr-defined]
    for name, code in (("onnx", onnx), ("sklearn", sklearn)):
        exec(compile(code, name, "exec"), values)
