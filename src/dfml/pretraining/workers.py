"""Runs independent jobs in worker processes, all of which are ended and waited for."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NoReturn, TypeVar

from dfml.errors import DfmlError, RunError

Job = TypeVar("Job")
Result = TypeVar("Result")

_GRACE_SECONDS = 10.0  # for a process to clean up before it is killed


def run_in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Generator[Result]:
    """Yield `function(job)` for every job, in the order in which they finish.

    A job is taken from `jobs` when a process is free. When the iterator is closed, a job fails or Ctrl-C is pressed,
    the processes are terminated (`SystemExit` is raised within the job) and waited for.

    Args:
        function: A function at the top level of a module.
        jobs: Jobs; they and the results must be picklable.
        workers: Number of processes.

    Raises:
        RunError: If a process dies.
        Exception: Any exception that a job raises.
    """
    waiting = iter(jobs)
    processes = _start(function, workers)
    try:
        busy = [connection for connection in processes if _send_next(connection, waiting)]
        while busy:
            ready = wait(busy)
            for connection in [connection for connection in busy if connection in ready]:
                failed, value = connection.recv()
                if failed:
                    raise value
                if not _send_next(connection, waiting):
                    busy.remove(connection)
                yield value
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RunError(
            "a worker process died: the machine may be out of memory, or the script that started it may lack "
            '`if __name__ == "__main__":`; run it again (what is finished is kept) with one worker'
        ) from error
    finally:
        _end(processes)


def _start(function: Callable[[Job], Result], workers: int) -> dict[Connection, SpawnProcess]:
    # Not forked: a fork copies the locks of torch's threads, but not the threads.
    context = multiprocessing.get_context("spawn")
    processes = {}
    with _no_interrupts():
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function), daemon=True)
            process.start()
            # With this process's copy closed, a read ends when the worker does.
            theirs.close()
            processes[ours] = process
    return processes


def _send_next(connection: Connection, jobs: Iterator[Job]) -> bool:
    for job in jobs:
        connection.send(job)
        return True
    return False


def _end(processes: dict[Connection, SpawnProcess]) -> None:
    with _no_interrupts():
        for connection, process in processes.items():
            connection.close()
            process.terminate()
        for process in processes.values():
            process.join(_GRACE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _serve(connection: Connection, function: Callable[[Job], Result]) -> None:
    """Run jobs until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGTERM, _exit)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        outcome: tuple[bool, Result | Exception]
        try:
            outcome = False, function(job)
        except Exception as error:
            if not isinstance(error, DfmlError):
                error.add_note(traceback.format_exc())
            outcome = True, error
        try:
            connection.send(outcome)
        except OSError:
            return  # the parent has closed the connection


def _exit(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Context in which Ctrl-C is ignored, also by processes that are started in it (they inherit the setting)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
