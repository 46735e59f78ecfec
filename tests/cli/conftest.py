"""What all tests of the command line share: coloured images, a zoo, two learners and a classifier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub  # noqa: F401  # its log handler keeps the standard error of the time of its import
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from dfml.cli import app

SIZE = 16
FEW = ("--way", "3", "--query", "2")
SHORT = (
    "--method",
    "purer",
    *FEW,
    "--iterations",
    "4",
    "--set",
    "purer.warm_up=1",
    "--set",
    "purer.checkpoint_every=2",
    "--set",
    "purer.learner.calibration=null",  # half a second per task
)


def dfml(*arguments: str | Path) -> Result:
    """Run the command in this process; an unexpected exception is raised, not turned into an exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def results(*arguments: str | Path) -> dict[str, Any]:
    """Run a subcommand that succeeds with `--json -`, and parse its standard output."""
    result = dfml(*arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["seconds"] >= 0
    return dict(values)


def error(result: Result, code: int) -> str:
    """The one error line on standard error; checks the exit code, and that it is the last line."""
    assert result.exit_code == code, (result.stdout, result.stderr)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.stderr
    return lines[0]


def write_images(folder: Path, classes: int, per_class: int, seed: int, prefix: str) -> None:
    """Write noisy images, with one colour per class."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        class_folder = folder / f"{prefix}_{label}"
        class_folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for number in range(per_class):
            pixels = (colour + rng.normal(0, 30, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(class_folder / f"{number}.png")


@dataclass(frozen=True)
class World:
    """Paths of shared files, which no test may change."""

    images: Path
    zoo: Path
    purer: Path
    untrained: Path
    classifier: Path


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made by the commands themselves, once."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    made = World(root / "colours", root / "zoo", root / "purer", root / "untrained", root / "classifier")
    write_images(made.images / "train", classes=4, per_class=10, seed=0, prefix="old")
    write_images(made.images / "test", classes=3, per_class=6, seed=1, prefix="new")
    steps = [
        (
            "zoo",
            "build",
            made.images,
            "--out",
            made.zoo,
            "--way",
            "2",
            "--disjoint",
            "--size",
            str(SIZE),
            "--epochs",
            "3",
        ),
        ("train", made.zoo, "--out", made.purer, *SHORT),
        ("train", made.zoo, "--out", made.untrained, "--method", "random_init", "--way", "3"),
        ("adapt", made.purer, made.images / "test", "--out", made.classifier),
    ]
    for step in steps:
        result = dfml(*step)
        assert result.exit_code == 0, result.stderr
    return made


@pytest.fixture
def spoilt(world: World, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """A function that copies the zoo and damages the first member of the copy."""

    def spoil(how: Callable[[Path], None]) -> Path:
        copy = tmp_path / "spoilt"
        shutil.copytree(world.zoo, copy)
        how(copy / "member-000")
        return copy

    return spoil
