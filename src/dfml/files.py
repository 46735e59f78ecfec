"""Files: writing them whole or not at all, tensors in safetensors files, the version of dfml's own formats.

Content is written to a temporary sibling, `.NAME.TOKEN.unfinished`, which takes its final name last. Where the process
is killed in between, the temporary stays: readers ignore names that begin with a dot, and `remove_unfinished` deletes
what is left.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from dfml.errors import DfmlError, LearnerError

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIX = ".unfinished"
_PYTORCH = {"format": "pt"}  # in the header of every safetensors file that is written

FORMAT_VERSION = 1
"""Version of the formats that dfml itself defines; raised by one when files of the old format can no longer be read."""


@contextmanager
def atomic_file(path: Path, *, fsync: bool = False) -> Iterator[Path]:
    """Replace or create a file when the `with` block ends without an error.

    Args:
        path: Final name of the file. A file of that name is replaced; who has the old one open keeps reading it.
        fsync: Wait until the content is on the disk before the file gets its name. Without it, a power failure may
            leave the name with no content.

    Yields:
        Path of the temporary file, in the same folder. The block has to write it; it is removed after an error.

    Raises:
        OSError: If the file cannot be written.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if fsync:
            _flush(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def atomic_write(path: Path, content: str | bytes, *, fsync: bool = False) -> None:
    """Write a whole file at once; see `atomic_file`.

    Args:
        path: Name of the file; an existing one is replaced.
        content: Bytes, or text that is encoded as UTF-8.
        fsync: See `atomic_file`.

    Raises:
        OSError: If the file cannot be written; an existing one is untouched then.
    """
    with atomic_file(path, fsync=fsync) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False, fsync: bool = False) -> Iterator[Path]:
    """Create a folder, with its content, when the `with` block ends without an error.

    Args:
        path: Final name of the folder. Missing parents are made. An empty folder of that name is replaced.
        replace: Replace a folder that holds something, too.
        fsync: Wait until all content is on the disk before the folder gets its name, and then until the name is.

    Yields:
        The temporary folder to write into, beside `path`; it is removed after an error.

    Raises:
        FileExistsError: If something is at `path` that may not be replaced; before anything is written.
        OSError: If the folder cannot be written.
    """
    path = path.absolute()
    if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already")
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if fsync:
            for part in (*temporary.rglob("*"), temporary):
                _flush(part)
        if replace and path.exists():
            remove_folder(path)
        elif path.is_dir():
            path.rmdir()
        temporary.rename(path)
        if fsync:
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_regular_file(path: Path) -> BufferedReader:
    """Open a regular file for reading. Whatever else has the name is refused without waiting for it.

    A file of another person may be a FIFO, whose opening waits for a writer, or a device, which has no end.

    Raises:
        OSError: If it cannot be opened, or is no regular file; links are followed.
    """
    # Windows has neither FIFOs in folders nor the first flag, and needs the second.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def remove_folder(path: Path) -> None:
    """Delete a folder. If the process is killed meanwhile, no part of it is left under its name.

    Raises:
        OSError: If it cannot be renamed or deleted.
    """
    temporary = _temporary(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporaries that killed processes have left in a folder; no other process may be writing there."""
    for temporary in folder.glob(f".*{_SUFFIX}"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Args:
        tensors: Tensors on any device and of any memory layout, by name.
        path: Name of the file. It is not written atomically: use `atomic_file` or `atomic_folder` around it.
        metadata: Further entries of the file's header.

    Raises:
        OSError: If the file cannot be written; safetensors itself raises an error of its own for a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_plain(tensors), path, metadata={**_PYTORCH, **(metadata or {})})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, as hex digits, of the file that `save_tensors` writes without further metadata."""
    from safetensors.torch import save

    return hashlib.sha256(save(_plain(tensors), metadata=dict(_PYTORCH))).hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def shape_mismatch(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], any_length: frozenset[str] = frozenset()
) -> str | None:
    """Describe the first tensor that is missing or has another shape than expected; None if all fit.

    Args:
        found: Named tensors of a file; further ones are ignored.
        expected: Named tensors of the shapes that are needed.
        any_length: Names of tensors whose first axis may have any length.
    """
    for name, value in expected.items():
        held = found.get(name)
        rows = int(name in any_length)
        if held is None or held.ndim != value.ndim or held.shape[rows:] != value.shape[rows:]:
            is_held = "is missing" if held is None else f"has shape {tuple(held.shape)}"
            return f"{name} {is_held}, expected {tuple(value.shape)}"
    return None


def check_format_version(found: object, what: str, error: type[DfmlError] = LearnerError) -> None:
    """Refuse a file whose format this version of dfml cannot read.

    Args:
        found: Value of the file's `format_version` entry; None where the entry is missing.
        what: Description of the file with its path, the beginning of the message.
        error: Class of the error that is raised.

    Raises:
        DfmlError: If the version is not `FORMAT_VERSION`; of the class `error`.
    """
    # A bool is an int for Python, but no version.
    if isinstance(found, bool) or found != FORMAT_VERSION:
        version = "no format version" if found is None else f"format version {found!r}"
        raise error(
            f"{what}: expected format version {FORMAT_VERSION}, found {version}; load it with the release of dfml that "
            "saved it, or create it again with this release"
        )


def _temporary(path: Path) -> Path:
    """A free name beside `path`, which readers ignore."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")


def _flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Windows opens no folder, and flushes only what is open for writing.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
