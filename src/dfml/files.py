"""Writing tensors: one way, one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dfml.errors import DfmlError, LearnerError

FORMAT_VERSION = 1
"""Version of the formats that dfml itself defines; raised by one when files of the old format can no longer be read."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, from any device and memory layout.

    Raises:
        OSError: If it cannot be written (safetensors has an error of its own for a full disk).
    """
    try:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


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
