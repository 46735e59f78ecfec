"""SIGINT (Ctrl-C) and SIGTERM: finished work is kept, and one line on standard error says how to resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dfml.cli.error_handling import Subcommands
from dfml.errors import RunError
from dfml.training.loop import Interrupted
from tests.cli.conftest import FEW, World

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

_PATIENCE = 180.0  # seconds


@pytest.fixture(autouse=True)
def _in_the_foreground() -> Iterator[None]:
    """SIGINT is handled as at a terminal. Shells ignore it in background jobs, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _iterations(run: Path) -> list[int]:
    metrics = run / "metrics.jsonl"
    return [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def _interrupt(arguments: list[str], run: Path, number: signal.Signals, more: int) -> tuple[int, str]:
    """Run until `more` meta-iterations are finished, send a signal, and return exit code and standard error."""
    before = len(_iterations(run))
    command = [sys.executable, "-m", "dfml", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + _PATIENCE
        while len(_iterations(run)) < before + more and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=_PATIENCE)
    return process.returncode, errors


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_from_its_checkpoint(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["train", str(world.zoo), "--out", str(run), *FEW, "--iterations", "100000", "--threads", "1"]
    code, errors = _interrupt(train, run, signal.SIGINT, more=3)
    assert code == 130, errors
    line = errors.splitlines()[-1]
    assert line.startswith("error: interrupted by SIGINT; a checkpoint is written, resume with: dfml train ")
    assert line.endswith("--resume")
    first = _iterations(run)
    assert (run / "checkpoints" / f"{first[-1]:06d}" / "manifest.json").is_file()

    code, errors = _interrupt([*train, "--resume"], run, signal.SIGTERM, more=3)
    assert code == 143, errors
    assert "Traceback" not in errors
    second = _iterations(run)
    assert second == list(range(1, len(second) + 1))
    assert len(second) > len(first)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_inversion_says_so(world: World, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dfml", "invert", str(world.zoo), "--out", str(out), "--steps", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + _PATIENCE
        while not (out / "config.yaml").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == code, errors
    assert errors.splitlines()[-1] == f"error: interrupted by {number.name}"
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "replacement", [ValueError("no shape"), RunError("member is damaged"), OSError("no disk"), None]
)
def test_an_interruption_is_reported_whatever_error_it_became(
    replacement: Exception | None, number: signal.Signals
) -> None:
    """Code in C, such as safetensors, may replace KeyboardInterrupt by an error of its own."""
    app = typer.Typer(cls=Subcommands)

    @app.command()
    def read() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if replacement is None:
                raise
            raise replacement from None

    @app.command()
    def other() -> None: ...

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    outcome = CliRunner().invoke(app, ["read"])
    assert (outcome.exit_code, outcome.stderr) == (128 + number, f"error: interrupted by {number.name}\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("subcommand", "advice"),
    [("train", "; a checkpoint is written, resume with: dfml train --resume"), ("evaluate", "")],
)
def test_only_the_error_of_a_training_says_how_to_resume_it(
    subcommand: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=Subcommands)

    @app.command()
    def work() -> None:
        raise Interrupted(signal.SIGTERM)

    @app.command()
    def other() -> None: ...

    monkeypatch.setattr(sys, "argv", ["dfml", subcommand])
    outcome = CliRunner().invoke(app, ["work"])
    assert (outcome.exit_code, outcome.stderr) == (143, f"error: interrupted by SIGTERM{advice}\n")


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    app = typer.Typer(cls=Subcommands)

    @app.command()
    def work() -> None:
        signal.raise_signal(signal.SIGINT)

    @app.command()
    def other() -> None: ...

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for background jobs
    try:
        outcome = CliRunner().invoke(app, ["work"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.exit_code == 0
