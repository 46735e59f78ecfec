"""Jobs in child processes, several at once: one that dies or fails affects neither the others nor their results.

Where the system has it, the start method is `forkserver`: a server process imports the libraries once and forks the
children. What a child prints is appended to a log. A child ends when its parent ends, also when the parent is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from dfml.errors import DfmlError

_PRELOADED = "dfml.benchmark.cell_process"
_GRACE_SECONDS = 60.0  # for a child to end its step and write a checkpoint before it is killed


class Job(Protocol):
    """Work for one child process; it must be possible to pickle it."""

    @property
    def title(self) -> str:
        """Description for messages."""

    def run(self) -> None:
        """Do the work and write its results to files."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        job: The job.
        error: Why it failed, as one line; None if it succeeded.
        seconds: Seconds from start to end.
    """

    job: Any
    error: str | None
    seconds: float


RunJobs = Callable[[Sequence[Any], Callable[[Any], Path], int], Iterator[JobResult | None]]
"""Function of (jobs, function job -> log file, largest number of processes). Its iterator yields a `JobResult` for
every job that ends, and None about every second in which none does."""


@dataclass
class _Child:
    job: Any
    process: BaseProcess
    connection: Connection
    log: Path
    started: float = field(default_factory=time.monotonic)


def run_jobs(jobs: Sequence[Any], log_of: Callable[[Any], Path], count: int) -> Iterator[JobResult | None]:
    """Run jobs in child processes; see `RunJobs`.

    When the iterator is closed, or an exception such as KeyboardInterrupt ends it, running children get SIGTERM and
    up to 60 seconds to write a checkpoint.

    Args:
        jobs: The jobs (`Job`), started in this order.
        log_of: Returns the file that the output of a job is appended to.
        count: Largest number of processes at once.
    """
    waiting, children = list(jobs), list[_Child]()
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([_PRELOADED])
    try:
        while waiting or children:
            while waiting and len(children) < count:
                children.append(_start(context, waiting.pop(0), log_of))
            wait([child.process.sentinel for child in children], timeout=1.0)
            ended = [child for child in children if not child.process.is_alive()]
            for child in ended:
                children.remove(child)
                yield _result(child)
            if not ended:
                yield None
    finally:
        _end(children)


def run_in_this_process(jobs: Sequence[Any], log_of: Callable[[Any], Path], count: int) -> Iterator[JobResult | None]:
    """Run jobs one by one in this process, without logs; see `RunJobs`. A job that crashes ends this process."""
    for job in jobs:
        start = time.monotonic()
        yield JobResult(job, _attempt(job), time.monotonic() - start)


def _start(context: Any, job: Any, log_of: Callable[[Any], Path]) -> _Child:
    ours, theirs = context.Pipe()
    log = log_of(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_work, args=(job, theirs, log))
    process.start()
    theirs.close()
    return _Child(job, process, ours, log)


def _result(child: _Child) -> JobResult:
    seconds = time.monotonic() - child.started
    try:
        error = child.connection.recv() if child.connection.poll() else _killed(child)
    except EOFError:
        error = _killed(child)
    child.connection.close()
    child.process.close()
    return JobResult(child.job, error, seconds)


def _killed(child: _Child) -> str:
    code = child.process.exitcode or 0
    reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    memory = "; the machine may be out of memory, try a smaller --jobs" if reason.endswith("SIGKILL") else ""
    return f"its process was {reason}{memory} (log: {child.log})"


def _end(children: Sequence[_Child]) -> None:
    """Terminate running children and wait; an exception meanwhile (a second Ctrl-C), or too long a wait, kills them."""
    try:
        for child in children:
            child.process.terminate()
        limit = time.monotonic() + _GRACE_SECONDS
        for child in children:
            child.process.join(max(0.0, limit - time.monotonic()))
    finally:
        for child in children:
            if child.process.is_alive():
                child.process.kill()
            child.process.join()


def _work(job: Any, connection: Connection, log: Path) -> None:
    """Run a job in a child process, and send its error, or None, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGTERM, _terminated)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    with log.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        error = _attempt(job)
        connection.send(f"{error} (log: {log})" if error else None)


def _attempt(job: Any) -> str | None:
    """Run a job; return its error as one line, or None. An error other than `DfmlError` is printed with traceback."""
    try:
        job.run()
    except DfmlError as error:
        return " ".join(str(error).split())
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        traceback.print_exc()
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_parent(connection: Connection) -> None:
    """Send SIGTERM to this process once the other end of the connection is closed: its parent has ended.

    The parent sends nothing and keeps its end open while the child runs, so `poll` returns only when the parent ends.
    """
    try:
        connection.poll(None)
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
