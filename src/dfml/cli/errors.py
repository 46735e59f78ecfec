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
        with _termination_raises(), _errors_become_lines():
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


class _Terminated(KeyboardInterrupt):
    """SIGTERM, in a form that lets everything on the way tidy up."""


@contextmanager
def _errors_become_lines() -> Iterator[None]:
    try:
        yield
    except DfmlError as error:
        show_error(str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        name, code = ("SIGTERM", 143) if isinstance(error, _Terminated) else ("SIGINT", 130)
        show_error(f"interrupted by {name}")
        raise typer.Exit(code) from error
    except BrokenPipeError:
        raise  # whoever read the output has enough of it: typer ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = "; make room and try again" if error.errno == errno.ENOSPC else ""
        show_error(f"{where}{error.strerror or error}{advice}")
        raise typer.Exit(1) from error
    except Exception as error:
        if (stopped := _stopped_run(error)) is not None:
            raise typer.Exit(stopped) from error
        if _is_disk_error(error):
            show_error(f"{error}; make room, or choose another place")
            raise typer.Exit(1) from error
        raise


def _stopped_run(error: Exception) -> int | None:
    """Says how to go on after a signal that a run answered with a checkpoint, and returns the exit code."""
    loop = sys.modules.get("dfml.training.loop")  # without it, nothing has been trained
    if loop is None or not isinstance(error, loop.Interrupted):
        return None
    again = ["dfml", *sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
    show_error(f"{error}; a checkpoint is written, go on with: {shlex.join(again)}")
    return int(error.exit_code)


def _is_disk_error(error: Exception) -> bool:
    """Whether safetensors could not write (a full disk, say): it does not raise OSError."""
    safetensors = sys.modules.get("safetensors")
    if safetensors is None or not isinstance(error, safetensors.SafetensorError):
        return False
    return "(os error " in str(error)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM ends a verb like Ctrl-C does: child processes are ended, unfinished files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
