"""Output folders of subcommands: existing content is never overwritten."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dfml.errors import RunError
from dfml.files import atomic_folder


def require_empty(out: Path) -> None:
    """Check that a folder is missing or empty.

    Raises:
        RunError: If `out` is a file, or a folder that holds anything.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another --out, or remove it first")


@contextmanager
def report_write_errors(out: Path) -> Iterator[None]:
    """Turn any OSError of the block into an error that says that the output folder cannot be written.

    The block must only write: an OSError of reading would be blamed on the output folder too.

    Args:
        out: The output folder (`--out`).

    Raises:
        RunError: In place of an OSError from the block.
    """
    try:
        yield
    except OSError as error:
        # `save_tensors` has the number of a full disk in the message only.
        is_full = error.errno == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error)
        advice = "make room, or choose another --out" if is_full else "choose another --out"
        raise RunError(f"{out} cannot be written ({error.strerror or error}); {advice}") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Create an output folder with all its content, or nothing after an error; see `dfml.files.atomic_folder`.

    Errors of the block stay as they are, since it may also read: wrap the lines that write in `report_write_errors`.

    Yields:
        A temporary folder to write into.

    Raises:
        RunError: If `out` exists and is not an empty folder, which is checked before the block, or it cannot be
            created.
    """
    require_empty(out)
    with ExitStack() as stack:
        with report_write_errors(out):
            unfinished = stack.enter_context(atomic_folder(out))
        yield unfinished
        with report_write_errors(out):
            stack.close()  # gives the folder its final name
