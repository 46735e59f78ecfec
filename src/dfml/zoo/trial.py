"""Trials: files whose cost no header shows are read in a child process first, whose time and memory are bounded.

A pickle and an ONNX graph are programs. A pickle of a few hundred bytes can ask for the hash of a tuple that doubles
sixty times, which takes years; a graph can loop without end, or make a tensor whose size it computes. The child reads
the file as this process would, on one thread, and throws away what it has read. Only where it comes to an end within
the bounds does this process read the file.

Bounds: on Linux, time of the processor, memory (address space beyond what the child had before) and a deadline; on
macOS, which does not enforce the second, the first and the last; on Windows the deadline alone.

One child serves all members. It is started for the first, ends after a minute without work, and is started again after
a failure.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from dfml.errors import ZooMemberError

TIME = 60
"""Seconds of processor time that a trial may take, and one more for every `BYTES_PER_SECOND` of the file."""

BYTES_PER_SECOND = 20 * 2**20

DEADLINE = 10.0
"""Seconds by the clock for each second of processor time: a busy machine is no reason to refuse a member."""

MEMORY = 4 * 2**30
"""Bytes of memory that a trial may take, and `MEMORY_PER_BYTE` more for every byte of the file."""

MEMORY_PER_BYTE = 6

_START_DEADLINE = 600.0  # seconds for the start of the child
_LEAVE_OUT = "leave it out, or ask its owner for a file of its weights alone (safetensors)"
_START = "import sys; sys.path[:] = {path!r}; from dfml.zoo.trial_child import main; main()"


class _Child:
    """The child process; requests and responses are lines of JSON."""

    def __init__(self) -> None:
        # -P and absolute entries: no module is imported from the folder that the command was started in.
        code = _START.format(path=[entry for entry in sys.path if os.path.isabs(entry)])
        self.owner = os.getpid()
        self._is_ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """The response to a request; None if the process ended instead of it, at the latest at the deadline."""
        assert self.process.stdin is not None
        found = None
        # Its imports, after which it sends a first line, are not part of a trial.
        if self._is_ready or self._receive(_START_DEADLINE) is not None:
            self._is_ready = True
            with suppress(OSError):
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
                found = self._receive(deadline)
        if found is None:
            self.close()
        return found

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The next line that the process sends; None if it ends instead, at the latest after `deadline` seconds."""
        assert self.process.stdout is not None
        timer = threading.Timer(deadline, self.process.kill)
        timer.daemon = True
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        found: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return found

    def close(self) -> None:
        """End the process, which this process has started."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not sent yet, to a process that has ended
                    stream.close()


_lock = threading.Lock()
_child: _Child | None = None
_results: dict[tuple[str, str, int, int, str], tuple[str, str] | None] = {}
_in_child = False


def try_first(kind: str, path: Path, **arguments: Any) -> None:
    """Read a file in the child process, unless this is the child process, or the same file has been tried before.

    Args:
        kind: What to do with it, a name in `dfml.zoo.trial_child.KINDS`.
        path: The file.
        arguments: Further plain values for it.

    Raises:
        ZooMemberError: If the child raises one, or exceeds its bounds, or ends.
        OSError: If there is no such file.
    """
    if _in_child:
        return
    found = path.stat()
    key = kind, os.path.abspath(path), found.st_mtime_ns, found.st_size, json.dumps(arguments)
    if key not in _results:
        _results[key] = _tried(kind, path, arguments, found.st_size)
    if problem := _results[key]:
        raise ZooMemberError(path, *problem)


def _tried(kind: str, path: Path, arguments: dict[str, Any], size: int) -> tuple[str, str] | None:
    """Reason and fix of the error that reading the file ends with; None if there is none."""
    seconds = TIME + size // BYTES_PER_SECOND
    request = {
        "kind": kind,
        "path": os.path.abspath(path),
        "arguments": arguments,
        "seconds": seconds,
        "memory": MEMORY + MEMORY_PER_BYTE * size,
    }
    with _lock:
        response, status = _ask(request, seconds)
    if response is None:
        return _reason(status, seconds), _LEAVE_OUT
    return (response["reason"], response["fix"]) if "reason" in response else None


def _ask(request: dict[str, Any], seconds: int) -> tuple[dict[str, Any] | None, int]:
    """The child's response, or None and the status that it ended with."""
    global _child
    for _ in range(2):
        if _child is None or _child.owner != os.getpid():
            _child = _Child()
        response = _child.ask(request, seconds * DEADLINE)
        if response is not None:
            return response, 0
        status = _child.process.returncode
        _child = None
        if status != 0:
            return None, status
        # It had ended by itself, after a time without work, just before it was asked.
    return None, 0


def _reason(status: int, seconds: int) -> str:
    if -status in (getattr(signal, "SIGXCPU", None), getattr(signal, "SIGKILL", None)) or (os.name == "nt" and status):
        return f"reading it takes more than {seconds} seconds of processor time, or too much memory"
    return f"the process that read it to try it ended with status {status}"


def enter_child() -> None:
    """Note that this process is the child: what it reads is not tried once more."""
    global _in_child
    _in_child = True


def end_child() -> None:
    """End the child process, if there is one; the next trial starts another."""
    global _child
    with _lock:
        if _child is not None:
            _child.close()
        _child = None


atexit.register(end_child)
