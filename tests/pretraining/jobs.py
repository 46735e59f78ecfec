"""Jobs for the worker processes of the tests."""

from __future__ import annotations

import os
import time
from pathlib import Path


def act(job: tuple[str, object]) -> object:
    """Run the job that its first word names; "sleep" creates a file when it starts and one when it is terminated."""
    word, value = job
    if word == "pid":
        return value, os.getpid()
    if word == "fail":
        raise LookupError(value)
    if word == "die":
        os._exit(3)
    path = Path(str(value))
    try:
        path.with_suffix(".started").touch()
        time.sleep(600)
    finally:
        path.with_suffix(".ended").touch()
    return None
