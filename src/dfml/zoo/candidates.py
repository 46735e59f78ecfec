"""Finds model files below a folder, also damaged ones, without following links and within bounds."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from dfml.zoo.sniffing import Found, Kind, sniff

_MAX_DEPTH, _MAX_ENTRIES = 16, 100_000
_MEMBERS = frozenset({Kind.TIMM, Kind.TRANSFORMERS, Kind.TENSORFLOW})  # folders that are one model, not a collection


@dataclass
class Candidates:
    """Files and folders below a folder.

    Attributes:
        models: Files and folders that are, or were meant to be, models, in the order of their paths.
        others: Files that are texts, images or documents.
    """

    models: list[Found] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_candidates(folder: Path, known: Collection[Path] = ()) -> Candidates:
    """Recognise all files below a folder.

    A folder that is one model is one entry; its files are not looked at. Names that begin with a dot are left out.
    Links are not followed: one to below the same folder is left out, since its target is found there; any other link, a
    FIFO or a device is an entry with a reason. After 100,000 files, or more than 16 folders deep, the search ends with
    an entry that says so.

    Args:
        folder: The folder.
        known: Files and folders that are not looked at, such as the members of a zoo.
    """
    found = Candidates()
    root = folder.resolve()
    # Not resolved: a member may be a link itself.
    skipped = {_absolute(path) for path in known}
    pending = [(folder, 0)]
    count = 0
    while pending:
        current, depth = pending.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror or error})"
            found.models.append(Found(current, Kind.UNKNOWN, "folder", reason, "check its permissions"))
            continue
        below = []
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or _absolute(path) in skipped:
                continue
            count += 1
            if count > _MAX_ENTRIES or depth > _MAX_DEPTH:
                limits = f"more than {_MAX_ENTRIES} files, or folders more than {_MAX_DEPTH} deep"
                reason = f"{limits}: this one and what follows was not looked at"
                found.models.append(Found(path, Kind.UNKNOWN, "", reason, "give the paths of the models themselves"))
                found.models.sort(key=lambda each: str(each.path))
                return found
            if entry.is_symlink():
                _note_link(path, root, found)
            elif entry.is_dir():
                model = sniff(path)
                if model.kind in _MEMBERS:
                    found.models.append(model)
                else:
                    below.append((path, depth + 1))
            else:
                _note(sniff(path), found)
        pending += reversed(below)
    found.models.sort(key=lambda each: str(each.path))
    return found


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


def _note(each: Found, found: Candidates) -> None:
    if each.is_candidate:
        found.models.append(each)
    else:
        found.others.append(each.path)


def _note_link(path: Path, root: Path, found: Candidates) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        found.models.append(Found(path, Kind.SPECIAL, "link", "it is a link to nothing", "remove it"))
        return
    if not target.is_relative_to(root):
        reason = "it is a link to outside of the folder, which is not followed"
        found.models.append(Found(path, Kind.SPECIAL, "link", reason, "give the path of its target itself"))
