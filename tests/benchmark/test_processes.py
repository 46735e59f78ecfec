"""Jobs in child processes: one that fails or dies leaves the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfml.benchmark import processes
from dfml.benchmark.processes import JobResult, run_in_this_process, run_jobs
from tests.benchmark.jobs import Job


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of these tests need no library."""
    monkeypatch.setattr(processes, "_PRELOADED", "tests.benchmark.jobs")


def _outcomes(found: Iterator[JobResult | None]) -> dict[str, str | None]:
    return {each.job.what: each.error for each in found if each is not None}


def test_a_job_that_fails_or_dies_leaves_the_others(tmp_path: Path) -> None:
    jobs = [Job(what, tmp_path) for what in ("fail", "crash", "bug", "exit", "write")]
    log = tmp_path / "logs" / "log"
    found = _outcomes(run_jobs(jobs, lambda job: log.with_name(job.what), 2))
    assert set(found) == {"fail", "crash", "bug", "exit", "write"}
    assert found["write"] is None
    assert (tmp_path / "written").read_text() == "done"
    assert found["fail"] == f"no room on the disk (log: {log.with_name('fail')})"
    assert "killed by SIGKILL" in str(found["crash"])
    assert "--jobs" in str(found["crash"])
    assert str(found["bug"]).startswith("ZeroDivisionError")
    assert "ended with exit code 3" in str(found["exit"])
    assert "Traceback" in log.with_name("bug").read_text()
    assert log.with_name("write").read_text() == "working\n"


def test_children_end_with_the_iterator(tmp_path: Path) -> None:
    running = run_jobs([Job("sleep", tmp_path)], lambda job: tmp_path / "log", 1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        assert next(running) is None
    running.close()  # type: ignore[attr-defined]
    assert (tmp_path / "started").exists()
    assert (tmp_path / "cleaned").exists()


def test_jobs_may_run_in_this_process(tmp_path: Path) -> None:
    jobs = [Job(what, tmp_path) for what in ("fail", "bug", "write")]
    found = _outcomes(run_in_this_process(jobs, lambda job: tmp_path / "log", 1))
    assert found == {
        "fail": "no room on the disk",
        "bug": "ZeroDivisionError: division by zero",
        "write": None,
    }
