"""`dfml benchmark` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dfml.benchmark import execution, shipped_suites
from dfml.benchmark.processes import run_in_this_process
from tests.benchmark.conftest import FAILING
from tests.benchmark.small import write
from tests.cli.conftest import dfml, error
from tests.factories import member
from tests.factories import write as write_member

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run in this process, without the start of others."""
    monkeypatch.setattr(execution, "run_jobs", run_in_this_process)


@pytest.mark.usefixtures("_here")
def test_a_suite_is_measured_and_a_failing_method_gives_exit_code_1(tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.yaml", methods={"failing": {"method": FAILING}})
    out = tmp_path / "out"
    shown = dfml("benchmark", suite, "--out", out, "--device", "cpu")
    assert "1 of 4 cells failed (failing on letters, seed 0: the disk is full); --resume" in error(shown, 1)
    assert {path.name for path in out.iterdir()} == {
        *("suite.yaml", "zoos", "cells", "report.html", "report.md", "report.csv", "results.json"),
    }
    values = json.loads((out / "results.json").read_text())
    assert list(values["methods"]) == ["purer", "zoo_embedding", "average"]
    assert f"{100 * values['methods']['purer']['accuracy']:.2f} ±" in shown.stdout
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")}
    assert "is not empty" in error(dfml("benchmark", suite, "--out", out), 1)
    write(suite)
    assert dfml("benchmark", suite, "--out", out, "--resume", "--device", "cpu").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = json.loads((out / "results.json").read_text())
    assert again["methods"] == values["methods"]


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_the_suite_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(block.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(block, encoding="utf-8")
    for index in range(2):
        write_member(Path("zoo") / f"m{index}", member(index, tuple(f"{index} {name}" for name in "abcde")))
    command = re.search(r"^dfml (benchmark mine.yaml .*)$", text, re.MULTILINE)
    assert command
    shown = dfml(*command.group(1).split())
    assert shown.exit_code == 0, shown.stderr
    values = json.loads(Path("results/results.json").read_text())
    assert list(values["methods"]) == list(yaml.safe_load(block)["methods"])


def test_wrong_usage(tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.yaml")
    assert "unknown suite 'magic'" in error(dfml("benchmark", "magic", "--out", tmp_path / "out"), 2)
    assert "--out DIR" in error(dfml("benchmark", suite), 2)
    assert "expected --data NAME=PATH" in error(dfml("benchmark", suite, "--out", tmp_path / "o", "--data", "x"), 2)
    wrong = write(tmp_path / "wrong.yaml", query=8)
    assert "shot + query need" in error(dfml("benchmark", wrong, "--out", tmp_path / "out"), 2)
    assert not (tmp_path / "out").exists()


def test_a_suite_is_shown_with_all_values(tmp_path: Path) -> None:
    shown = dfml("benchmark", "smoke", "--show")
    (tmp_path / "same.yaml").write_text(shown.stdout)
    assert yaml.safe_load(dfml("benchmark", tmp_path / "same.yaml", "--show").stdout) == yaml.safe_load(shown.stdout)
    listed = dfml("benchmark", "--help").stdout
    assert "smoke" in listed
    assert set(shipped_suites()) >= {"smoke"}


def _command(suite: Path | str, out: Path) -> list[str]:
    return [sys.executable, "-m", "dfml", "benchmark", str(suite), "--out", str(out), "--resume", "--jobs", "2"]


@pytest.mark.slow
def test_a_killed_benchmark_is_resumed_to_the_same_table(tmp_path: Path) -> None:
    steps = {"iterations": 60, "checkpoint_every": 5, "snapshot_every": 30}
    suite = write(tmp_path / "suite.yaml", methods={"purer": {"settings": steps}})
    whole = subprocess.run(_command(suite, tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    for how in (signal.SIGKILL, signal.SIGTERM):
        running = subprocess.Popen(_command(suite, out), stderr=subprocess.PIPE, text=True)
        rows = _metrics(out)
        while _metrics(out) < rows + 10 and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(how)
        _, printed = running.communicate()
        assert running.returncode == (-9 if how == signal.SIGKILL else 143), printed
        if how == signal.SIGTERM:
            assert "interrupted by SIGTERM, resume with: dfml benchmark" in printed
    done = subprocess.run(_command(suite, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "whole", out)]
    first, second = (
        [{n: m["accuracies"] for n, m in each["mean"]["methods"].items()} for each in table["results"]]
        for table in tables
    )
    assert first == second


def _metrics(out: Path) -> int:
    """Number of finished meta-iterations of PURER."""
    return sum(len(path.read_text().splitlines()) for path in out.glob("cells/purer-*/run/metrics.jsonl"))


@pytest.mark.slow
def test_the_smoke_suite_runs_offline(tmp_path: Path) -> None:
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(_command("smoke", tmp_path / "out"), capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(values["methods"]) == len(yaml.safe_load((tmp_path / "out" / "suite.yaml").read_text())["methods"])
    assert all(each["mean"]["methods"] for each in values["results"])
    impossible = values["results"][-1]["notes"]
    assert set(impossible) == {"average", "ot_fusion"}
    assert not values["failures"]
