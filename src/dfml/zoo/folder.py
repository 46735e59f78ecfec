"""The paths and names of the members of a zoo on disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from dfml.errors import ZooError
from dfml.zoo.formats import CONFIG, WEIGHTS, find_format, has_member_files
from dfml.zoo.hub import absolute_path, is_hub_id, member_name
from dfml.zoo.manifest import MANIFEST, Manifest, entry_path, find_entry, named_files, read_manifest

RECORD = "zoo.json"
"""File in which `dfml.pretraining` records the settings that it built the zoo with; it is no member."""


def member_paths(path: Path, *, allow_none: bool = False) -> list[Path]:
    """Paths of a zoo's members, sorted by name.

    A member is a file or folder that a format recognises, or a folder with `config.json` or `model.safetensors` that no
    format recognises (a damaged member, reported when it is read). Files and folders whose names start with a dot are
    ignored. The entries of a manifest (`zoo.yaml`) are members with the path `ZOO/zoo.yaml#NAME`; the files that they
    name are no further members.

    Args:
        path: The zoo's folder; or a single member, which is a zoo of one, also one on the Hub (`hf:OWNER/NAME`).
        allow_none: Return an empty list where the path exists and there is no member.

    Raises:
        ZooError: If there is nothing at the path or no member, or the manifest cannot be read.
    """
    if is_hub_id(path):
        return [absolute_path(path)]
    if find_entry(path):
        return [path]
    if path.is_dir() and ((path / CONFIG).is_file() or find_format(path, declared=False)):
        return [path]
    if not path.is_dir():
        if path.is_file() and find_format(path):
            return [path]
        if path.exists() and allow_none:
            return []
        raise ZooError(f"expected a zoo (a folder of classifiers) at {path}, found no folder; check the path")
    manifest = read_manifest(path) or Manifest()
    named = {os.path.abspath(file) for file in named_files(path, manifest.members)}
    entries = [
        entry
        for entry in path.iterdir()
        if entry.name not in (RECORD, MANIFEST) and not entry.name.startswith(".") and not _is_named(entry, named)
    ]
    members = [entry for entry in entries if has_member_files(entry) or find_format(entry)]
    members = sorted([*members, *(entry_path(path, member) for member in manifest.members)], key=_shown_name)
    if not members and find_format(path):
        return [path]
    if not members and not allow_none:
        raise empty_zoo(path)
    return members


def named_members(paths: Sequence[Path]) -> dict[str, Path]:
    """Name and path of every member of one or several zoos.

    Args:
        paths: Folders of zoos, or single members; at least one.

    Returns:
        Name -> path, zoo by zoo, each sorted by name. In a single zoo a member has the name of its file, folder or
        entry in the manifest; with several zoos it is `ZOO/MEMBER`, where ZOO is the name of the zoo's folder, or its
        whole path if two folders have the same name.

    Raises:
        ZooError: If no path is given, one is given twice, or one has no member.
    """
    if not paths:
        raise ZooError("expected the folder of a zoo, found none")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ZooError(f"expected different zoos, found one twice in {', '.join(map(str, paths))}; name it once")
    if len(paths) == 1:
        return {_shown_name(member): member for member in member_paths(paths[0])}
    names = [member_name(path) if is_hub_id(path) else path.resolve().name for path in paths]
    found = {}
    for path, name in zip(paths, names, strict=True):
        zoo = name if names.count(name) == 1 else str(path)
        for member in member_paths(path):
            found[zoo if member == path else f"{zoo}/{_shown_name(member)}"] = member
    return found


def _is_named(entry: Path, named: Collection[str]) -> bool:
    """Whether a manifest names a file or folder, or the weights in a folder that does not describe itself."""
    path = os.path.abspath(entry)
    return path in named or (os.path.join(path, WEIGHTS) in named and not (entry / CONFIG).exists())


def _shown_name(path: Path) -> str:
    return member_name(path) if is_hub_id(path) else path.name.removeprefix(f"{MANIFEST}#")


def empty_zoo(path: Path) -> ZooError:
    """The error for a zoo without members."""
    return ZooError(
        f"the zoo {path} is empty: expected folders with {CONFIG} and {WEIGHTS}; put classifiers there, add other "
        "people's files with `dfml zoo add`, or make some with `dfml zoo build`"
    )
