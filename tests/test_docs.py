"""The examples of the documentation run as they stand: Python of the pages on extensions, and whole tutorials."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dfml
from dfml.images import to_pil
from dfml.learners import Student
from dfml.registries import Registry
from dfml.zoo import formats
from tests.cli.conftest import dfml as run_dfml
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


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own-zoo.md", "audit.md"])
def test_a_tutorial_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and Python of a page, one after the other in an empty folder; all Python is one session."""
    monkeypatch.setenv("DFML_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "example"}
    blocks = re.findall(
        r"^```(sh|python)\n(.*?)^```", (DOCS / "tutorials" / page).read_text(encoding="utf-8"), re.M | re.S
    )
    assert {language for language, _ in blocks} == {"sh", "python"}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, page, "exec"), session)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "dfml"
            result = run_dfml(*arguments)
            assert result.exit_code == 0, (line, result.stderr)


def test_every_public_name_is_in_the_api_reference() -> None:
    documented = re.findall(
        r"^\.\. (?:auto\w+|py:data):: dfml\.(\w+)$", (DOCS / "reference" / "api.md").read_text(encoding="utf-8"), re.M
    )
    assert sorted(documented) == sorted(set(dfml.__all__) - {"__version__"})


def test_every_page_is_on_the_site() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {f"{name}.md" for block in re.findall(r"```{toctree}\n(.*?)```", index, re.S) for name in block.split()}
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages <= listed


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ('<a href="other.html#here">a</a><img src="picture.svg">', None),
        ('<a href="gone.html">a</a>', "gone.html leads nowhere"),
        ('<a href="other.html#gone">a</a>', "no such heading"),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js"),
        ('<a href="https://example.org/">a link that a reader may follow</a>', None),
    ],
)
def test_a_built_site_is_checked(page: str, problem: str | None, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    (tmp_path / "other.html").write_text('<h1 id="here">a</h1>', encoding="utf-8")
    (tmp_path / "picture.svg").write_text("<svg/>", encoding="utf-8")
    problems = runpy.run_path(str(DOCS / "check_site.py"))["problems"](tmp_path)
    assert [problem in line for line in problems] == ([True] if problem else [])
