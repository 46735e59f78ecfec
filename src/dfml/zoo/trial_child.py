"""What the child process of `dfml.zoo.trial` does: it reads files within bounds, and says whether it came to an end."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from importlib import import_module
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from dfml.errors import ZooMemberError
from dfml.zoo import trial

KINDS = {
    "checkpoint": "dfml.zoo.checkpoint_files:read_checkpoint",
    "onnx_graph": "dfml.zoo.onnx_graph:read_onnx_graph",
    "onnx_network": "dfml.zoo.formats.onnx:try_network",
}
"""Kind of trial -> the function that is called with the path and the further arguments."""

_IDLE = 60.0  # seconds without work after which the process ends


def main() -> None:
    """Answer requests until the standard input ends, or a minute passes without one."""
    trial.enter_child()
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no response
    import_module("dfml.zoo.checkpoint_files")
    responses.write(b"{}\n")  # from now on, time counts
    responses.flush()
    serve(os.fdopen(0, "rb"), responses)


def serve(requests: BufferedIOBase, responses: BufferedIOBase) -> None:
    """Answer every line of `requests` by a line in `responses`; see `answer`."""
    while True:
        idle = threading.Timer(_IDLE, os._exit, (0,))
        idle.daemon = True
        idle.start()
        line = requests.readline()
        idle.cancel()
        if not line:
            return
        responses.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        responses.flush()


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Do what is requested, within its bounds.

    Args:
        request: `kind` (a name in `KINDS`), `path`, `arguments`, `seconds` of processor time, `memory` in bytes.

    Returns:
        Nothing if it succeeded; `reason` and `fix` of the error if not.
    """
    module, _, name = KINDS[request["kind"]].partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)  # before the bounds: its imports are not tried
    limit(request["seconds"], request["memory"])
    try:
        function(Path(request["path"]), **request["arguments"])
    except ZooMemberError as error:
        return {"reason": error.reason, "fix": error.fix}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return {"reason": f"it cannot be read ({reason})", "fix": "restore the file, or leave it out"}
    return {}


def limit(seconds: int, memory: int) -> None:
    """Set the bounds of this process: it ends by a signal beyond them, or an allocation fails.

    Args:
        seconds: Further seconds of processor time.
        memory: Further bytes of address space.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource, resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        return
    _set(resource, resource.RLIMIT_AS, pages * resource.getpagesize() + memory)


def _set(resource: Any, which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
