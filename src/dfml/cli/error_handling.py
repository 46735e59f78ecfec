"""Errors of a subcommand become one line on standard error and an exit code. Only a bug shows a traceback."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from dfml.errors import DfmlError, ZooMemberError, ZooMembersError
from dfml.plain_text import plain_text

_SKIP = "--on-bad-member"  # option by which a subcommand leaves out bad members


class Subcommands(TyperGroup):
    """The group of all subcommands, which turns an error of the running subcommand into one line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the subcommands, in the order in which a user needs them."""
        names = super().list_commands(ctx)
        first = [name for name in ("quickstart", "zoo") if name in names]
        return first + [name for name in names if name not in first]

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand."""
        with _signals_raise() as signals, _errors_become_lines(signals, lambda: self._can_skip(ctx)):
            return super().invoke(ctx)

    def _can_skip(self, ctx: Any) -> bool:
        """Whether the running subcommand can leave out bad members."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        return command is not None and any(_SKIP in parameter.opts for parameter in command.params)


def show_error(message: str) -> None:
    """Print an error on standard error, as one line."""
    print(f"error: {plain_text(' '.join(message.split()))}", file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line; replaces `warnings.showwarning`, which would show the place in the code."""
    print(f"warning: {plain_text(' '.join(str(message).split()))}", file=sys.stderr)


@contextmanager
def _errors_become_lines(signals: list[signal.Signals], can_skip: Callable[[], bool]) -> Iterator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        # Code in C may replace KeyboardInterrupt by an error of its own; a signal that came before explains it.
        if signals or isinstance(error, KeyboardInterrupt):
            number = signals[0] if signals else signal.SIGINT
            show_error(f"interrupted by {number.name}{_how_to_resume()}")
            raise typer.Exit(128 + number) from error
        if isinstance(error, BrokenPipeError):
            raise  # the reader of the output has closed it; typer ends without a message
        if (code := _report(error, can_skip)) is None:
            raise
        raise typer.Exit(code) from error


def _report(error: BaseException, can_skip: Callable[[], bool]) -> int | None:
    """Print what went wrong and return the exit code; None for a bug, for which nothing is printed.

    Args:
        error: What was raised.
        can_skip: Whether the subcommand can leave out bad members.
    """
    if isinstance(error, ZooMembersError):
        for problem in error.problems:
            show_error(str(problem))
        show_error(f"{error.summary}, see above; mend or remove them{_how_to_skip('them', can_skip)}")
        return error.exit_code
    if isinstance(error, ZooMemberError):
        show_error(f"{error}{_how_to_skip('it', can_skip)}")
        return error.exit_code
    if isinstance(error, DfmlError):
        show_error(str(error))
        return error.exit_code
    if isinstance(error, OSError):
        prefix = f"{error.filename}: " if error.filename else ""
        advice = "; make room and try again" if error.errno == errno.ENOSPC else ""
        show_error(f"{prefix}{error.strerror or error}{advice}")
        return 1
    if (code := _report_interrupted_run(error)) is not None:
        return code
    if _is_disk_error(error):
        show_error(f"{error}; make room, or choose another place")
        return 1
    return None


def _how_to_skip(members: str, can_skip: Callable[[], bool]) -> str:
    """How to leave out bad members, as the end of a message; empty if the subcommand cannot."""
    return f"; or leave {members} out with {_SKIP} skip" if can_skip() else ""


def _report_interrupted_run(error: BaseException) -> int | None:
    """Print how to resume a run that a signal has ended, and return the exit code; None for another error."""
    loop = sys.modules.get("dfml.training.loop")  # not imported here: that takes seconds
    if loop is None or not isinstance(error, loop.Interrupted):
        return None
    # A method that `METHOD:ZOO` trains writes no checkpoint.
    show_error(f"{error}; a checkpoint is written{_how_to_resume()}" if sys.argv[1:2] == ["train"] else str(error))
    return int(error.exit_code)


def _how_to_resume() -> str:
    """The command that resumes the running one, as the end of a message; empty if it cannot be resumed."""
    if sys.argv[1:2] not in (["train"], ["benchmark"]):
        return ""
    command = ["dfml", *sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
    return f", resume with: {shlex.join(command)}"


def _is_disk_error(error: BaseException) -> bool:
    """Whether safetensors could not write, as on a full disk: it does not raise an OSError then."""
    safetensors = sys.modules.get("safetensors")
    if safetensors is None or not isinstance(error, safetensors.SafetensorError):
        return False
    return "(os error " in str(error)


@contextmanager
def _signals_raise() -> Iterator[list[signal.Signals]]:
    """Make SIGTERM end a subcommand as Ctrl-C does: child processes end, and unfinished files are removed.

    Yields:
        A list to which every signal is appended when it comes.
    """
    signals: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def interrupt(number: int, frame: object) -> None:
        signals.append(signal.Signals(number))
        raise KeyboardInterrupt

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in background jobs of a shell
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
