"""The files and folders of a zoo on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dfml.errors import ZooError
from dfml.zoo.formats import CONFIG, WEIGHTS, find_format, has_member_files

RECORD = "zoo.json"
"""Settings that `dfml.pretraining` built the zoo with; no member."""


def member_paths(path: Path) -> list[Path]:
    """Paths of a zoo's members, sorted by name.

    A member is a file or folder that a format recognises, or a folder that holds `config.json` or `model.safetensors`
    (a damaged member, reported when it is read). Names that start with a dot are left out.

    Args:
        path: The zoo's folder; or a single member, which is a zoo of one.

    Raises:
        ZooError: If there is no member.
    """
    if path.is_dir() and ((path / CONFIG).is_file() or find_format(path, declared=False)):
        return [path]
    if not path.is_dir():
        if path.is_file() and find_format(path):
            return [path]
        raise ZooError(f"expected a zoo (a folder of classifiers) at {path}, found no folder; check the path")
    entries = sorted(entry for entry in path.iterdir() if entry.name != RECORD and not entry.name.startswith("."))
    members = [entry for entry in entries if has_member_files(entry) or find_format(entry)]
    if not members and find_format(path):
        return [path]
    if not members:
        raise ZooError(
            f"the zoo {path} is empty: expected folders with {CONFIG} and {WEIGHTS}; "
            "put classifiers there, or make some with `dfml zoo build`"
        )
    return members


def named_members(paths: Sequence[Path]) -> dict[str, Path]:
    """Name and path of every member of one or several zoos.

    Args:
        paths: Folders of zoos, or single members; at least one.

    Returns:
        Name -> path, in the order of the zoos and of their members' names. A member of a single zoo is named like its
        folder; one of several zoos `FOLDER/MEMBER`, with the whole path of the zoo where two have one name.

    Raises:
        ZooError: If there is no zoo, one has no member, or a zoo is named twice.
    """
    if not paths:
        raise ZooError("expected the folder of a zoo, found none")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ZooError(f"expected different zoos, found one twice in {', '.join(map(str, paths))}; name it once")
    if len(paths) == 1:
        return {member.name: member for member in member_paths(paths[0])}
    names = [path.resolve().name for path in paths]
    found = {}
    for path, name in zip(paths, names, strict=True):
        zoo = name if names.count(name) == 1 else str(path)
        for member in member_paths(path):
            found[zoo if member == path else f"{zoo}/{member.name}"] = member
    return found
