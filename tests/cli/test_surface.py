"""The subcommands and options that users rely on. A change here changes what they type."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from dfml.cli import app
from dfml.cli.options import DEFAULT_METHOD, METHOD_NAMES
from dfml.data.splits import split_names
from dfml.inversion.registry import engine_names
from dfml.learners import CALIBRATIONS
from dfml.methods import METHODS
from dfml.pretraining import RECIPES
from dfml.zoo.zoo import MAX_RESIDENT
from tests.cli.conftest import dfml

COMMON = ["--device", "--json", "--seed", "--threads"]
SURFACE = {
    "zoo build": [
        "DATA[@SIZE]...",
        *("--arch", "--disjoint", "--epochs", "--members", "--out", "--recipe", "--size", "--split", "--splits"),
        *("--way", "--workers"),
        *COMMON,
    ],
    "zoo add": [
        "PATH...",
        *("--accept-preprocessing", "--arch", "--channels", "--check-with", "--class-index", "--copy", "--json"),
        *("--interpolation", "--labels", "--layers", "--mean", "--name", "--network", "--on-bad-member", "--output"),
        *("--range", "--size", "--std", "--yes", "--zoo"),
    ],
    "zoo inspect": ["ZOO", "--class-identity", "--json", "--max-resident", "--network", "--write-identity"],
    "train": [
        "ZOO...",
        *("--class-identity", "--config", "--from", "--iterations", "--method", "--out", "--preset", "--protocol"),
        *("--max-resident", "--network", "--on-bad-member", "--query", "--resume", "--set", "--shot", "--show-config"),
        *("--size", "--tensorboard", "--way"),
        *COMMON,
    ],
    "evaluate": [
        "LEARNER... DATA...",
        *(
            "--allow-other-protocol",
            "--calibration",
            "--episodes",
            "--max-resident",
            "--network",
            "--on-bad-member",
            "--protocol",
            "--query",
            "--report",
            "--shot",
            "--snapshots",
            "--split",
        ),
        *("--splits", "--way"),
        *COMMON,
    ],
    "benchmark": ["SUITE", "--data", "--device", "--jobs", "--json", "--out", "--resume", "--show", "--zoo"],
    "playground": ["LEARNER", "--device", "--port", "--recovered", "--seed", "--threads"],
    "quickstart": ["--json", "--out", "--seed", "--threads"],
    "adapt": ["LEARNER", "SUPPORT_DIR", "--calibration", "--max-resident", "--out", *COMMON],
    "predict": ["CLASSIFIER", "IMAGE...", "--csv", "--json", "--threads", "--top"],
    "export": [
        "CLASSIFIER",
        *("--calibrate-with", "--check-with", "--int8", "--json", "--out", "--page", "--threads", "--to"),
    ],
    "invert": [
        "ZOO",
        *("--compare-with", "--engine", "--from", "--held-out", "--max-resident", "--member", "--members", "--memory"),
        *("--network", "--on-bad-member", "--out", "--per-class", "--set", "--steps"),
        *COMMON,
    ],
}


def _subcommands(command: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, below in command.commands.items():
        nested = hasattr(below, "commands")
        found |= _subcommands(below, f"{prefix}{name} ") if nested else {f"{prefix}{name}": below}
    return found


SUBCOMMANDS = _subcommands(typer.main.get_command(app))


@pytest.mark.parametrize("subcommand", SURFACE)
def test_a_subcommand_has_exactly_these_arguments_and_options(subcommand: str) -> None:
    names = [
        parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
        for parameter in SUBCOMMANDS[subcommand].params
    ]
    assert sorted(names) == sorted(SURFACE[subcommand])


def test_there_are_exactly_these_subcommands() -> None:
    assert set(SUBCOMMANDS) == set(SURFACE)


@pytest.mark.parametrize("subcommand", SURFACE)
def test_every_subcommand_has_help(subcommand: str) -> None:
    shown = dfml(*subcommand.split(), "--help")
    assert shown.exit_code == 0
    assert "Usage" in shown.stdout


def test_help_lists_all_choices() -> None:
    parameters = {subcommand: {p.name: p for p in SUBCOMMANDS[subcommand].params} for subcommand in SUBCOMMANDS}
    assert set(METHOD_NAMES) == set(METHODS)
    assert all(method in parameters["train"]["method"].help for method in METHODS)
    assert f"{DEFAULT_METHOD} (default)" in parameters["train"]["method"].help
    for subcommand in ("evaluate", "adapt"):
        assert set(parameters[subcommand]["calibration"].type.choices) == {*CALIBRATIONS, "none"}
        assert all(name in parameters[subcommand]["calibration"].help for name in CALIBRATIONS)
    for subcommand in ("evaluate", "zoo build"):
        assert tuple(parameters[subcommand]["splits"].type.choices) == split_names()
        assert ", ".join(split_names()) in parameters[subcommand]["splits"].help
    assert tuple(parameters["zoo build"]["recipe"].type.choices) == tuple(RECIPES)
    for subcommand in ("train", "invert", "evaluate", "adapt", "zoo inspect"):
        assert parameters[subcommand]["max_resident"].default == MAX_RESIDENT
    assert all(engine in parameters["invert"]["engine"].help for engine in engine_names())


def test_the_command_starts_without_heavy_imports() -> None:
    check = "import sys; import dfml.cli; print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_command_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "dfml", "--version"], capture_output=True, text=True, check=True)
    name, version = shown.stdout.split()
    assert name == "dfml"
    assert version[0].isdigit()
