"""Whatever goes wrong for a user ends in one line on standard error and an exit code; only a bug shows a traceback."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from dfml.errors import DfmlError


class Verbs(TyperGroup):
    """The group of all verbs; turns the errors of whichever runs into a line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs in the order in which they are used."""
        names = super().list_commands(ctx)
        first = [name for name in ("quickstart", "zoo") if name in names]
        return first + [name for name in names if name not in first]

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        with _signals_raise() as came, _errors_become_lines(came):
            return super().invoke(ctx)


def show_error(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of `warnings.showwarning`: a user is told what is odd, not where in the code that was noticed."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextmanager
def _errors_become_lines(came: list[signal.Signals]) -> Iterator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        # Code in C may put an error of its own in the place of KeyboardInterrupt: what came before it, counts.
        if came or isinstance(error, KeyboardInterrupt):
            number = came[0] if came else signal.SIGINT
            show_error(f"interrupted by {number.name}")
            raise typer.Exit(128 + number) from error
        if isinstance(error, BrokenPipeError):
            raise  # whoever read the output has enough of it: typer ends quietly
        if (code := _explained(error)) is None:
            raise
        raise typer.Exit(code) from error


def _explained(error: BaseException) -> int | None:
    """Says in a line what went wrong and returns the exit code; None for a bug."""
    if isinstance(error, DfmlError):
        show_error(str(error))
        return error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        advice = "; make room and try again" if error.errno == errno.ENOSPC else ""
        show_error(f"{where}{error.strerror or error}{advice}")
        return 1
    if (stopped := _stopped_run(error)) is not None:
        return stopped
    if _is_disk_error(error):
        show_error(f"{error}; make room, or choose another place")
        return 1
    return None


def _stopped_run(error: BaseException) -> int | None:
    """Says how to go on after a signal that a run answered with a checkpoint, and returns the exit code."""
    loop = sys.modules.get("dfml.training.loop")  # without it, nothing has been trained
    if loop is None or not isinstance(error, loop.Interrupted):
        return None
    again = ["dfml", *sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
    show_error(f"{error}; a checkpoint is written, go on with: {shlex.join(again)}")
    return int(error.exit_code)


def _is_disk_error(error: BaseException) -> bool:
    """Whether safetensors could not write (a full disk, say): it does not raise OSError."""
    safetensors = sys.modules.get("safetensors")
    if safetensors is None or not isinstance(error, safetensors.SafetensorError):
        return False
    return "(os error " in str(error)


@contextmanager
def _signals_raise() -> Iterator[list[signal.Signals]]:
    """SIGTERM ends a verb like Ctrl-C does: child processes are ended, unfinished files removed.

    Yields:
        The signals that came, in their order.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def interrupt(number: int, frame: object) -> None:
        came.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job of a shell ignores Ctrl-C
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
