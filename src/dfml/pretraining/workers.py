"""Runs independent jobs in processes of their own, and leaves none of them behind."""

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

_PATIENCE = 10.0  # seconds that a process gets to tidy up before it is killed


def run_in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Generator[Result]:
    """Yield `function(job)` for every job, in the order in which they finish.

    Jobs are taken from `jobs` when a process is free for them. When the iterator is closed, or a job fails, or Ctrl-C
    is pressed, the processes are told to end (a `SystemExit` within the job), and are waited for.

    Args:
        function: A module's function.
        jobs: Values that can be pickled, as must be the results.
        workers: Processes at once.

    Raises:
        RunError: If a process dies.
        Exception: Whatever a job raises.
    """
    waiting = iter(jobs)
    processes = _start(function, workers)
    try:
        busy = [connection for connection in processes if _send_next(connection, waiting)]
        while busy:
            ready = wait(busy)
            for connection in [each for each in busy if each in ready]:
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
            # With our copy closed, a read ends when the process does.
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
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _serve(connection: Connection, function: Callable[[Job], Result]) -> None:
    """What a process does: jobs, until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one decides
    signal.signal(signal.SIGTERM, _leave)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        answer: tuple[bool, Result | Exception]
        try:
            answer = False, function(job)
        except Exception as error:
            if not isinstance(error, DfmlError):
                error.add_note(traceback.format_exc())
            answer = True, error
        try:
            connection.send(answer)
        except OSError:
            return  # nobody waits for it any more


def _leave(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C is ignored, also by the processes that are started meanwhile (they inherit that)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
