"""Folders that a verb writes: never over something else, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dfml.errors import RunError
from dfml.files import atomic_folder


def require_empty(out: Path) -> None:
    """Refuse a place where something is.

    Raises:
        RunError: If it is a file, or a folder that holds anything.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another --out, or remove it first")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say which folder could not be written when the disk is full, or the user has no right to.

    Raises:
        RunError: Instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, beside `out`; it becomes `out` when all went well, and is removed otherwise.

    Raises:
        RunError: If something is at `out`, or it cannot be written.
    """
    require_empty(out)
    with writing(out), atomic_folder(out) as unfinished:
        yield unfinished
