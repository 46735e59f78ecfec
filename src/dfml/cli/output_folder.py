"""Output folders of verbs: existing content is never overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
def writing(out: Path) -> Iterator[None]:
    """Turn errors of writing, such as a full disk, into one that names the output folder.

    Raises:
        RunError: In place of an OSError from the block.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror or error}); make room, or choose another --out"
        ) from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Create an output folder with all its content, or nothing after an error; see `dfml.files.atomic_folder`.

    Yields:
        A temporary folder to write into.

    Raises:
        RunError: If `out` exists and is not an empty folder, or it cannot be written.
    """
    require_empty(out)
    with writing(out), atomic_folder(out) as unfinished:
        yield unfinished
