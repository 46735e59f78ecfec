"""A class split that another package brings is a choice of `--splits`, without an edit in dfml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import FEW, World, dfml
from tests.packages import declare_entry_points

CODE = """
from dfml.data.splits import ListedSplit
mine = ListedSplit("mine", train=("new_2",), val=(), test=("new_0", "new_1"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "my_splits.py").write_text(CODE)
    declare_entry_points(tmp_path, "mypackage", splits="mine = my_splits:mine")
    return tmp_path


def run(package: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which the package is installed."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "dfml", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_is_offered_without_its_code_being_run(package: Path) -> None:
    (package / "my_splits.py").write_text("raise AssertionError('was imported')")
    shown = run(package, "evaluate", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "vgg-flower, mine" in " ".join(shown.stdout.split())


@pytest.mark.slow
def test_it_divides_the_data(package: Path, world: World) -> None:
    images = world.images / "test"
    options = (*FEW, "--way", "2", "--episodes", "4", "--splits", "mine", "--json", "-")
    evaluated = run(package, "evaluate", f"random_embedding:{world.zoo}", images, *options)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["dataset"] == "test/test"
    small = run(package, "evaluate", f"random_embedding:{world.zoo}", images, *options, "--way", "3")
    assert small.returncode == 1
    assert "2 classes" in small.stderr


def test_any_other_name_is_wrong_usage(world: World) -> None:
    wrong = dfml("evaluate", world.untrained, world.images, "--splits", "mine")
    assert wrong.exit_code == 2
    assert "cifar-fs" in wrong.stderr
