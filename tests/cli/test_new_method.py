"""The method of docs/new-method.md: one file outside of the package, trained, resumed and compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dfml.errors import UsageError
from dfml.learners import MetaLearner
from dfml.methods import METHODS, find_method, method_names
from tests.cli.conftest import FEW, World, dfml, error, results

PAGE = Path(__file__).resolve().parents[2] / "docs" / "new-method.md"
METHOD = ("--method", "my_method:LeafStudent")
TINY = ("images=8", "steps=5", "batch=16", "checkpoint_every=2")
SHORT = {
    "zoo": (),
    "train": ("--iterations", "4", *(word for each in TINY for word in ("--set", f"leaf_student.{each}"))),
    "evaluate": (*FEW, "--episodes", "4"),
}
WEIGHTS = "model.safetensors"


def blocks(language: str) -> list[str]:
    """The code blocks of the page in one language, in order."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def commands(subcommand: str) -> list[list[str]]:
    """Commands of the page, with settings that make them fast."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    split = [shlex.split(line) for line in lines]
    assert all(words[0] == "dfml" for words in split)
    return [[*words[1:], *SHORT[subcommand]] for words in split if words[1] == subcommand]


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the method's file and a zoo; it is not on Python's search path yet."""
    (tmp_path / "my_method.py").write_text(blocks("python")[0])
    (tmp_path / "zoo").symlink_to(world.zoo)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.setattr(MetaLearner, "_kinds", dict(MetaLearner._kinds))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or os.sep).is_relative_to(tmp_path):
            del sys.modules[name]


def module(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(code))


def package(folder: Path, name: str, **groups: str) -> None:
    """The metadata that an installed package has."""
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"[dfml.{group}]\n{entry}\n" for group, entry in groups.items()]
    (about / "entry_points.txt").write_text("".join(lines))


def test_the_commands_of_the_page_work_from_training_to_comparison(folder: Path) -> None:
    show, train, resume = commands("train")
    assert dfml(*show).exit_code == 0
    assert not (folder / "leaf").exists()
    trained = dfml(*train)
    assert trained.exit_code == 0, trained.stderr
    assert (folder / "leaf" / WEIGHTS).is_file()
    weights = (folder / "leaf" / WEIGHTS).read_bytes()

    # Restore the state of an interruption after the second meta-iteration.
    shutil.rmtree(folder / "leaf" / "checkpoints" / "000004")
    (folder / "leaf" / WEIGHTS).unlink()
    assert dfml(*resume).exit_code == 0
    assert (folder / "leaf" / WEIGHTS).read_bytes() == weights
    rows = [json.loads(line) for line in (folder / "leaf" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert all(row["distillation_loss"] > 0 for row in rows)

    # The learner is of one of dfml's own kinds, so that it loads without the method's file.
    (folder / "my_method.py").unlink()
    del sys.modules["my_method"]
    (evaluate,) = commands("evaluate")
    found = results(*evaluate)
    assert list(found["methods"]) == ["leaf_student", "random_init", "zoo_embedding"]
    assert len(found["pairs"]) == 3


def test_the_page_builds_a_zoo_with_existing_options() -> None:
    (build,) = commands("zoo")
    assert (
        "error: expected an image folder" in dfml(*("missing" if word == "glyphs" else word for word in build)).stderr
    )


def test_its_settings_are_shown_changed_and_refused_like_those_of_any_method(folder: Path) -> None:
    shown = dfml("train", "--show-config", *METHOD, "--set", "leaf_student.rate=0.5", "--way", "3")
    assert shown.exit_code == 0, shown.stderr
    assert "  # Highest learning rate of Adam; it falls to zero along a half cosine.\n  rate: 0.5\n" in shown.stdout
    settings = yaml.safe_load(shown.stdout)
    assert settings["method"] == "leaf_student"
    assert settings["leaf_student"]["way"] == 3
    assert "'leaf_student.magic'" in error(dfml("train", "--show-config", *METHOD, "--set", "leaf_student.magic=1"), 2)
    assert "is for leaf_student" in error(dfml("train", "--show-config", *METHOD, "--set", "purer.way=1"), 2)


def test_a_config_file_contains_the_method_s_name_but_imports_no_module(folder: Path) -> None:
    file = folder / "run.yaml"
    file.write_text(dfml("train", "--show-config", *METHOD, "--set", "leaf_student.rate=0.5").stdout)
    again = dfml("train", "--show-config", "--config", file, *METHOD)
    assert again.stdout == file.read_text()
    module(folder, "trap", "raise AssertionError('was imported')")
    for name in ("leaf_student", "trap:Method"):
        file.write_text(f"method: {name}\n{name.replace(':', '_')}: {{}}\n")
        line = error(dfml("train", "--show-config", "--config", file), 2)
        assert f"unknown method {name!r}" in line
        assert "--method MODULE:CLASS" in line
    assert "trap" not in sys.modules
    file.write_text("method: my_method:LeafStudent\nleaf_student: {rate: 0.25}\n")
    assert "rate: 0.25" in dfml("train", "--show-config", "--config", file, *METHOD).stdout
    assert "contradicts" in error(dfml("train", "--show-config", "--config", file, "--method", "purer"), 2)
    file.write_text("leaf_student: {rate: 0.25}\nmagic: {}\n")
    assert "unknown entry 'magic'" in error(dfml("train", "--show-config", "--config", file, *METHOD), 2)


def test_an_error_says_how_a_learner_of_a_new_kind_is_found(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.purer, folder / "leaf")
    config = json.loads((folder / "leaf" / "config.json").read_text())
    (folder / "leaf" / "config.json").write_text(json.dumps({**config, "kind": "leafy"}))
    module(folder, "leafy", "from dfml import MAML\nclass Leafy(MAML): kind = 'leafy'")
    evaluate = ("evaluate", "leaf", world.images, *SHORT["evaluate"])
    line = error(dfml(*evaluate), 1)
    assert "kind 'leafy'" in line
    assert "entry point of dfml.learners" in line
    assert "leafy" not in sys.modules
    package(folder, "leafy", learners="leafy = leafy")
    monkeypatch.syspath_prepend(folder)
    assert dfml(*evaluate).exit_code == 0


def test_a_method_without_training_is_evaluated_by_its_path(world: World, folder: Path) -> None:
    module(folder, "mine", "from dfml import RandomEmbedding\nclass Mine(RandomEmbedding): name = 'mine'")
    found = results("evaluate", "mine:Mine:zoo", "random_embedding:zoo", world.images, *SHORT["evaluate"])
    mine, theirs = (found["methods"][name]["accuracies"] for name in ("mine", "random_embedding"))
    assert mine == theirs
    line = error(dfml("evaluate", "my_method:LeafStudent:zoo", "glyphs"), 2)
    assert "has to be trained" in line
    # If there is no such zoo, the path is wrong, and nothing is imported.
    module(folder, "trap", "raise AssertionError('was imported')")
    assert "expected a learner's folder" in error(dfml("evaluate", "trap:Method:missing", "glyphs"), 1)
    # The name of one of dfml's own methods takes precedence over MODULE:CLASS.
    assert "expected a zoo" in error(dfml("evaluate", "random_init:Mine:zoo", "glyphs"), 1)


BASE = """
from dfml import Method
from dfml.training.loop import TrainingConfig, TrainingRun

class Right(Method):
    name, config_type = "right", TrainingConfig
    def start(self, zoo, device): ...
"""


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("missing:Right", "", ["there is no module 'missing'", "missing.py"]),
        ("json.missing:Right", "", ["there is no module 'json.missing'"]),
        ("mine.py:Right", "", ["write mine:Right"]),
        ("mine:Wrong", "", ["has no class 'Wrong'", "its methods are: Right"]),
        ("mine:TrainingConfig", "", ["not a method", "expected a subclass of dfml.Method"]),
        ("mine:Method", "", ["not a method"]),
        ("mine:VALUE", "VALUE = 3", ["not a method"]),
        ("mine:New", "class New(Right): name = 'purer'", ["has the name 'purer'"]),
        ("mine:New", "class New(Right): name = 'zoo'", ["class attribute `name`", "found 'zoo'"]),
        ("mine:New", "class New(Right): name = 'two words'", ["class attribute `name`"]),
        ("mine:New", "class New(Method): config_type = TrainingConfig", ["class attribute `name`", "found None"]),
        ("mine:New", "class New(Method): name = 'new'", ["class attribute `config_type`", "found None"]),
        ("mine:New", "class New(Right): config_type = dict", ["class attribute `config_type`"]),
        ("mine:New", "class New(Method): name, config_type = 'new', TrainingConfig", ["does not define start"]),
        (
            "mine:New",
            "class Config(TrainingConfig): rate: float\nclass New(Right): config_type = Config",
            ["every setting needs a valid default", "'rate'"],
        ),
        ("mine:Right", "1 / 0", ["mine.py:8: ZeroDivisionError: division by zero"]),
        ("mine:Right", "import helper", ["helper.py:2: KeyError: 'no'"]),
        ("mine:Right", "import json\njson.loads('no')", ["mine.py:9: JSONDecodeError"]),
        ("mine:Right", "def f(:", ["mine.py:8: SyntaxError"]),
        ("mine:Right", "import not_installed_anywhere", ["mine.py:8: ModuleNotFoundError", "not_installed_anywhere"]),
        ("mine:Right", "raise SystemExit(0)", ["mine.py:8: SystemExit"]),
    ],
)
def test_an_unusable_method_is_an_error_in_one_line(folder: Path, path: str, code: str, words: list[str]) -> None:
    module(folder, "mine", BASE + code)
    module(folder, "helper", "values = {}\nvalues['no']")
    line = error(dfml("train", "zoo", "--out", "run", "--method", path), 2)
    assert all(word in line for word in words), line
    assert not (folder / "run").exists()


def test_a_file_in_the_current_folder_replaces_no_installed_module(folder: Path) -> None:
    module(folder, "dfml", BASE)
    module(folder, "mine", BASE)
    assert find_method("mine:Right").name == "right"
    with pytest.raises(UsageError, match="has no class 'Right'"):
        find_method("dfml:Right")


def test_a_declared_method_is_found_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(folder, "leaf", methods="leaf_student = my_method:LeafStudent\npurer = my_method:LeafStudent")
    monkeypatch.syspath_prepend(folder)
    assert "leaf_student" in method_names()
    assert "my_method" not in sys.modules
    assert find_method("purer") is METHODS["purer"]
    assert "leaf_student" in error(dfml("train", "--method", "magic"), 2)
    assert "my_method" not in sys.modules
    shown = dfml("train", "--show-config", "--method", "leaf_student")
    assert shown.exit_code == 0, shown.stderr
    (folder / "run.yaml").write_text(shown.stdout)
    assert dfml("train", "--show-config", "--config", folder / "run.yaml").stdout == shown.stdout
    assert "has to be trained" in error(dfml("evaluate", "leaf_student:zoo", "glyphs"), 2)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("other = my_method:LeafStudent", ["declared as 'other'", "its name is 'leaf_student'", "package leaf"]),
        ("other = my_method:Missing", ["cannot be imported", "package leaf", "Missing"]),
        ("other = broken:Right", ["broken.py:8: ZeroDivisionError", "package leaf"]),
    ],
)
def test_an_unusable_declared_method_is_an_error_that_names_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entry: str, words: list[str]
) -> None:
    module(folder, "broken", BASE + "1 / 0")
    package(folder, "leaf", methods=entry)
    monkeypatch.syspath_prepend(folder)
    line = error(dfml("train", "zoo", "--out", "run", "--method", "other"), 2)
    assert all(word in line for word in words), line


def test_two_packages_that_declare_one_name_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(folder, "one", methods="leaf_student = my_method:LeafStudent")
    package(folder, "two", methods="leaf_student = other:LeafStudent")
    monkeypatch.syspath_prepend(folder)
    line = error(dfml("train", "--method", "leaf_student"), 2)
    assert "package one" in line
    assert "package two" in line


@pytest.mark.slow
def test_the_installed_command_finds_the_file_and_training_needs_no_data(folder: Path) -> None:
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "dfml", "train", "--show-config", *METHOD]  # -P: as a script, not a module
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=one)
    assert "\nleaf_student:\n" in shown.stdout
    check = [sys.executable, "-c", blocks("python")[1]]
    done = subprocess.run(check, capture_output=True, text=True, check=False, env=one)
    assert done.returncode == 0, done.stderr
