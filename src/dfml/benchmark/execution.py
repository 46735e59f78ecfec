"""Runs the unfinished part of a benchmark: zoos one after the other, then cells in parallel."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from dfml.benchmark.cell_process import CellJob
from dfml.benchmark.preparation import Plan
from dfml.benchmark.processes import RunJobs, run_jobs
from dfml.training.progress import clock
from dfml.zoo.folder import member_paths

_MEMORY_PER_JOB = 2 * 2**30  # bytes
_INTERVAL = 30.0  # seconds between lines of progress

Say = Callable[[str], None]


def execute(plan: Plan, jobs: int, *, run: RunJobs | None = None, say: Say | None = None) -> dict[str, str]:
    """Build the zoos and run the cells that are not finished yet.

    Args:
        plan: Zoos and cells of the benchmark.
        jobs: Number of cells at once.
        run: Function that runs jobs; None: `run_jobs`, in child processes.
        say: Called with every line of progress; None: lines go to standard error.

    Returns:
        Key of a cell -> why it failed; empty if nothing failed.
    """
    run = run or run_jobs
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    out = plan.options.out
    failed_zoos: dict[str, str] = {}
    for name, (zoo_job, members) in plan.zoo_jobs.items():
        if _members(zoo_job.folder) < members:
            say(f"zoo {name}: {members} members, building")
            for ended in run([zoo_job], lambda job: out / "logs" / f"zoo-{job.folder.name}.log", 1):
                if ended and ended.error:
                    failed_zoos[name] = ended.error
                    say(f"zoo {name} failed: {ended.error}")
                elif ended:
                    say(f"zoo {name}: built in {clock(ended.seconds)}")
    failures = {}
    pending = []
    for key, job in plan.jobs.items():
        broken = [zoo for zoo in job.cell.zoos if zoo in failed_zoos]
        if broken:
            failures[key] = f"the zoo {broken[0]} was not built: {failed_zoos[broken[0]]}"
        elif not job.is_finished:
            pending.append(job)
    pending.sort(key=lambda job: job.cell.config().iterations == 0)  # short cells last, to keep all processes busy
    if pending:
        say(f"{len(pending)} of {len(plan.jobs)} cells to do, {jobs} at once")
        failures |= _run_cells(pending, out, jobs, run, say)
    return failures


def _run_cells(pending: Sequence[CellJob], out: Path, count: int, run: RunJobs, say: Say) -> dict[str, str]:
    failures: dict[str, str] = {}
    seconds: dict[str, list[float]] = {}
    done, last_line = 0, time.monotonic()
    left = [job.cell.row for job in pending]
    for ended in run(pending, lambda job: out / "logs" / f"{job.cell.key}.log", count):
        now = time.monotonic()
        if ended is None:
            if now - last_line >= _INTERVAL:
                last_line = now
                say(f"{done}/{len(pending)} cells{_time_left(left, seconds, count)}")
            continue
        done, last_line = done + 1, now
        cell = ended.job.cell
        left.remove(cell.row)
        if ended.error:
            failures[cell.key] = ended.error
        else:
            seconds.setdefault(cell.row, []).append(ended.seconds)
        text = f"failed: {ended.error}" if ended.error else f"done in {clock(ended.seconds)}"
        say(f"{done}/{len(pending)} cells{_time_left(left, seconds, count)}  {cell.title}: {text}")
    return failures


def _time_left(rows: Sequence[str], seconds: Mapping[str, Sequence[float]], count: int) -> str:
    """Text on the time left, estimated from finished cells of the same rows, else of all; empty before the first."""
    known = [value for values in seconds.values() for value in values]
    if not known:
        return ""
    mean = sum(known) / len(known)
    expected = [sum(own) / len(own) if (own := seconds.get(row)) else mean for row in rows]
    return f", about {clock(max([sum(expected) / count, *expected], default=0.0))} left"


def _members(folder: Path) -> int:
    """Number of members of a zoo that are built; 0 if the folder is absent or empty."""
    return len(member_paths(folder)) if folder.is_dir() and any(folder.glob("*/*")) else 0


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(device: Any) -> int:
    """Default number of cells at once: one per core, at most one per 2 GiB of memory; one on a GPU.

    Small networks gain little from a second thread, so several cells with one thread each are faster.

    Args:
        device: The `torch.device` of the trainings.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(available_cores(), psutil.virtual_memory().total // _MEMORY_PER_JOB))
