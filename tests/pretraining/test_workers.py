"""Jobs in worker processes: results in order of finishing, failures are raised, and no process is left running."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dfml.errors import RunError
from dfml.pretraining.workers import run_in_processes

from .jobs import act


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_job_is_done_and_a_failure_is_raised_with_its_traceback() -> None:
    jobs = [*(("pid", number) for number in range(5)), ("fail", "lost")]
    results_by_job: dict[int, int] = {}
    with pytest.raises(LookupError, match="lost") as caught:
        results_by_job.update(pair for pair in run_in_processes(act, jobs, 2))
    assert len(results_by_job) >= 4  # the last one may be overtaken by the failure
    assert os.getpid() not in results_by_job.values()
    assert len(set(results_by_job.values())) <= 2
    assert not any(is_running(pid) for pid in results_by_job.values())
    assert "raise LookupError(value)" in caught.value.__notes__[0]


def test_a_process_that_dies_is_reported() -> None:
    with (
        pytest.raises(RunError, match="a worker process died"),
        closing(run_in_processes(act, [("die", 0), ("die", 1)], 1)) as results,
    ):
        list(results)


def test_closing_ends_running_jobs_and_lets_them_clean_up(tmp_path: Path) -> None:
    results = run_in_processes(act, [("pid", 0), ("sleep", str(tmp_path / "job"))], 1)
    _, pid = next(results)
    wait_for((tmp_path / "job.started").exists)
    results.close()
    assert (tmp_path / "job.ended").exists()
    assert not is_running(pid)
