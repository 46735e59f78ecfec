"""Reading of members' files: JSON and safetensors, from regular files only. Nothing is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dfml.errors import ZooMemberError
from dfml.files import open_regular_file

RESTORE = "restore the file from where the member came from, or remove the member"
"""What a user can do about a damaged file."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read: the names of a million classes need about half of it."""

MAX_VALUES = 4_000_000
"""Largest number of values of such a file: a list in it takes 60 bytes of memory for two bytes of the file."""

_LFS_MARK = b"version https://git-lfs"


def parse_json(path: Path) -> Any:
    """Parse a regular file of at most `MAX_JSON_BYTES` as JSON.

    Raises:
        OSError: If it cannot be opened, or is no regular file.
        ValueError: If it is too large, has more than `MAX_VALUES` values, or is not JSON.
        RecursionError: If its values are nested too deeply.
    """
    with open_regular_file(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
    return bounded_json(content)


def bounded_json(content: bytes) -> Any:
    """Parse bytes as JSON.

    Raises:
        ValueError: If they have more than `MAX_VALUES` values, or are not JSON in UTF-8.
        RecursionError: If the values are nested too deeply.
    """
    if content.count(b",") > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")
    return json.loads(content.decode("utf-8"))


def read_json(folder: Path, name: str) -> Any:
    """Read a JSON file of a member's folder.

    Raises:
        ZooMemberError: If it is missing, no regular file, larger than `MAX_JSON_BYTES`, or not JSON.
    """
    try:
        return parse_json(folder / name)
    except OSError as error:
        raise ZooMemberError(folder, f"{name} cannot be read ({error.strerror})", RESTORE) from error
    except (ValueError, RecursionError) as error:
        raise ZooMemberError(folder, f"{name} is not valid JSON ({error})", RESTORE) from error


def read_safetensors(member: Path, path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        member: The member's folder or file, for messages.
        path: The safetensors file.

    Raises:
        ZooMemberError: If it is missing, no regular file, a git-lfs pointer, damaged or cut short.
    """
    try:
        with open_regular_file(path) as file:
            if file.read(len(_LFS_MARK)) == _LFS_MARK:
                raise ZooMemberError(member, f"{path.name} is a git-lfs pointer, not the weights", "run `git lfs pull`")
        with safe_open(path, framework="pt") as weights:
            return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except OSError as error:
        reason = error.strerror or str(error)
        raise ZooMemberError(member, f"{path.name} cannot be read ({reason})", RESTORE) from error
    except SafetensorError as error:
        raise ZooMemberError(member, f"{path.name} is damaged or cut short ({error})", RESTORE) from error
