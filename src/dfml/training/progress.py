"""Progress of long work: a bar with the remaining time on a terminal, one plain line per interval elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, runtime_checkable

from dfml.plain_text import plain_text


@runtime_checkable
class Progress(Protocol):
    """A display of the progress of long work; used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show the number of finished steps, and some metrics of the last one."""

    def message(self, text: str) -> None:
        """Show a message, such as that a member is excluded."""


class SilentProgress:
    """A display that shows nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""


class PlainProgress(SilentProgress):
    """One line per interval on standard error, for logs.

    The first update contains whatever had to be done before the first step (an evaluation embeds all images), so the
    time left is estimated from the time since the first update, and shown from the second update on.

    Args:
        title: Name of the work, the beginning of every line.
        total: Number of steps of the whole work.
        interval: Seconds between lines; default 10.
    """

    def __init__(self, title: str, total: int, interval: float = 10.0) -> None:
        self._title, self._total = title, total
        self._interval = interval
        self._first_update: tuple[float, int] | None = None
        self._last_line = time.monotonic()

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Print a line if the last one is an interval ago, or this is the last step."""
        now = time.monotonic()
        since, finished = self._first_update = self._first_update or (now, done)
        if now - self._last_line < self._interval and done < self._total:
            return
        self._last_line = now
        left = ""
        if done > finished or done == self._total:
            left = f"  {clock((now - since) / max(done - finished, 1) * (self._total - done))} left"
        shown = "".join(f"  {name} {value:.4g}" for name, value in metrics.items())
        print(f"{plain_text(self._title)} {done}/{self._total}{left}{shown}", file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """Print a line."""
        print(plain_text(f"{self._title}: {text}"), file=sys.stderr, flush=True)


class BarProgress:
    """A bar on a terminal. Rich, too, estimates the time left from the second update on.

    Args:
        title: Name of the work, shown before the bar.
        total: Number of steps of the whole work.
        start: Number of steps that were finished earlier, where a run is resumed; default 0.
    """

    def __init__(self, title: str, total: int, start: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("/"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(plain_text(title), total=total, completed=start, metrics="")

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        values = " ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        self._bar.update(self._task, completed=done, metrics=values)

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(plain_text(text), markup=False)


def show_progress(title: str, total: int, start: int = 0) -> Progress:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    return BarProgress(title, total, start) if sys.stderr.isatty() else PlainProgress(title, total)


OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called with (number of finished steps, number of all steps, metrics to show)."""


@contextmanager
def deferred_progress(title: str) -> Iterator[OnStep]:
    """Show the progress of work whose number of steps is known only after its first step; nothing is shown before.

    Args:
        title: Name of the work, shown before the bar.

    Yields:
        Function to call after every step.
    """
    with ExitStack() as stack:
        displays: list[Progress] = []

        def on_step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            if not displays:
                displays.append(stack.enter_context(show_progress(title, total, start=done)))
            displays[0].update(done, metrics)

        yield on_step


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
