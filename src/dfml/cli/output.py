"""Output of a subcommand: messages and tables to standard output, results as JSON to a file or to standard output."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfml.errors import UsageError
from dfml.plain_text import plain_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

_STDOUT = Path("-")
_WIDE = 200  # columns of a table that is written to a file or a pipe, so that no cell is cut


class Output:
    """Messages, tables and results of one subcommand.

    Args:
        json_file: File for `results`; None writes none. With `-`, results go to standard output and everything else to
            standard error.

    Raises:
        UsageError: If that file cannot be written; checked here, before hours of work.
    """

    def __init__(self, json_file: Path | None = None) -> None:
        from rich.console import Console

        if json_file and json_file != _STDOUT:
            require_writable("--json", json_file)
        self._json_file = json_file
        self._start = time.perf_counter()
        stream = sys.stderr if json_file == _STDOUT else sys.stdout
        # Labels and paths may hold brackets, which rich would take for markup.
        self._console = Console(
            file=stream, markup=False, emoji=False, highlight=False, width=None if stream.isatty() else _WIDE
        )

    @property
    def seconds(self) -> float:
        """Seconds since the subcommand started."""
        return time.perf_counter() - self._start

    def say(self, text: str) -> None:
        """Print one line, which is not wrapped; control characters are written out."""
        self._console.print(plain_text(text), soft_wrap=True)

    def show(self, renderable: Any) -> None:
        """Print a table or another renderable of rich; control characters in its texts are written out."""
        self._console.print(_Plain(renderable))

    def results(self, values: Mapping[str, Any], file: Path | None = None) -> None:
        """Write results, and the seconds since the subcommand started, as JSON if `--json` was given.

        Args:
            values: The results.
            file: File that gets the same JSON, whether `--json` was given or not; None: no such file.
        """
        text = to_json({**values, "seconds": round(self.seconds, 3)})
        if file:
            file.write_text(text, encoding="utf-8")
        if self._json_file == _STDOUT:
            sys.stdout.write(text)
        elif self._json_file:
            self._json_file.write_text(text, encoding="utf-8")


def say_left_out(output: Output, left_out: Mapping[str, str]) -> None:
    """Print one line that says which members are left out, and why; nothing where there are none."""
    if left_out:
        reasons = " | ".join(f"{name}: {reason}" for name, reason in left_out.items())
        output.say(f"left out {len(left_out)} members that cannot be used: {' '.join(reasons.split())}")


class _Plain:
    """A renderable of rich whose texts hold other people's words, such as labels; styles and borders are rich's own."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for text, style, control in console.render(self._renderable, options):
            yield Segment(plain_text(text), style, control)


def require_writable(option: str, file: Path) -> None:
    """Check that a file can be written, before the work whose results it is for.

    Args:
        option: Name of the option that named the file, for the message.
        file: Path of the file; it may exist.

    Raises:
        UsageError: If it is a folder, its folder does not exist, or permission is missing.
    """
    folder = file.absolute().parent
    if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise UsageError(f"{option} {file} cannot be written: expected a writable file in a folder that exists")


def to_json(values: Any) -> str:
    """Format values as JSON; NaN and infinity, such as the interval of one episode, become null."""
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
