"""Where a verb's words and figures go: tables to standard output, JSON to a file or to standard output alone."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfml.errors import UsageError

_STDOUT = Path("-")
_WIDE = 200  # columns where nobody looks at a terminal: a table in a log is not cut


class Output:
    """What a verb says.

    Args:
        json_file: Where `results` go as JSON besides; `-` is standard output, and the words go to standard error then.

    Raises:
        UsageError: If that file cannot be written; better now than after hours of work.
    """

    def __init__(self, json_file: Path | None = None) -> None:
        from rich.console import Console

        if json_file and json_file != _STDOUT:
            require_writable("--json", json_file)
        self._json_file = json_file
        self._began = time.perf_counter()
        stream = sys.stderr if json_file == _STDOUT else sys.stdout
        # Labels and paths are other people's: nothing in them is markup.
        self._console = Console(
            file=stream, markup=False, emoji=False, highlight=False, width=None if stream.isatty() else _WIDE
        )

    @property
    def seconds(self) -> float:
        """Since the verb started."""
        return time.perf_counter() - self._began

    def say(self, text: str) -> None:
        """Print a line, never broken into two."""
        self._console.print(text, soft_wrap=True)

    def show(self, renderable: Any) -> None:
        """Print a table."""
        self._console.print(renderable)

    def results(self, values: Mapping[str, Any]) -> None:
        """Write results as JSON if that was asked for, with the seconds since the verb started."""
        text = to_json({**values, "seconds": round(self.seconds, 3)})
        if self._json_file == _STDOUT:
            sys.stdout.write(text)
        elif self._json_file:
            self._json_file.write_text(text, encoding="utf-8")


def require_writable(option: str, file: Path) -> None:
    """Make sure that a file can be written, before the work that it is to hold.

    Raises:
        UsageError: If it is a folder, its folder does not exist, or it may not be written.
    """
    folder = file.absolute().parent
    if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise UsageError(f"{option} {file} cannot be written: expected a writable file in a folder that exists")


def to_json(values: Any) -> str:
    """JSON text; numbers that JSON does not know (an interval from one episode) become null."""
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
