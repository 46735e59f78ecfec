"""The files and folders of a zoo on disk."""

from __future__ import annotations

from pathlib import Path

from dfml.errors import ZooError
from dfml.zoo.formats import CONFIG, WEIGHTS, find_format, has_member_files

RECORD = "zoo.json"
"""Settings that `dfml.pretraining` built the zoo with; no member."""


def member_paths(path: Path, *, allow_none: bool = False) -> list[Path]:
    """Paths of a zoo's members, sorted by name.

    A member is a file or folder that a format recognises, or a folder that holds `config.json` or `model.safetensors`
    (a damaged member, reported when it is read). Names that start with a dot are left out.

    Args:
        path: The zoo's folder; or a single member, which is a zoo of one.
        allow_none: Return an empty list where the path exists and there is no member.

    Raises:
        ZooError: If there is no member, or nothing at the path.
    """
    if path.is_dir() and ((path / CONFIG).is_file() or find_format(path, declared=False)):
        return [path]
    if not path.is_dir():
        if path.is_file() and find_format(path):
            return [path]
        if path.exists() and allow_none:
            return []
        raise ZooError(f"expected a zoo (a folder of classifiers) at {path}, found no folder; check the path")
    entries = sorted(entry for entry in path.iterdir() if entry.name != RECORD and not entry.name.startswith("."))
    members = [entry for entry in entries if has_member_files(entry) or find_format(entry)]
    if not members and find_format(path):
        return [path]
    if not members and not allow_none:
        raise empty_zoo(path)
    return members


def empty_zoo(path: Path) -> ZooError:
    """The error for a zoo without members."""
    return ZooError(
        f"the zoo {path} is empty: expected folders with {CONFIG} and {WEIGHTS}; put classifiers there, add other "
        "people's files with `dfml zoo add`, or make some with `dfml zoo build`"
    )
