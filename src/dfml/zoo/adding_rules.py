"""Rules of adding a member: its name, its labels, and what is missing with the flags to say it by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfml.errors import ConfigError
from dfml.zoo.label_files import read_labels
from dfml.zoo.manifest import Manifest, ManifestMember
from dfml.zoo.preprocessing_ranking import PreprocessingRanking

_LABEL_FILES = (
    "class_names.json",
    "labels.json",
    "classes.json",
    "id2label.json",
    "labels.txt",
    "classes.txt",
    "synset.txt",
)


@dataclass(frozen=True)
class Missing:
    """Something that only the user can say.

    Attributes:
        field: What it is: `architecture`, `size` or `preprocessing`.
        reason: Why it is not known.
        flags: The options of `dfml zoo add` that say it.
        acceptable: Whether there is a proposal that the user may take.
    """

    field: str
    reason: str
    flags: str
    acceptable: bool = False


def missing_architecture(
    proposed: str | list[Any] | None = None, open_points: Sequence[str] = (), proposals: int = 0
) -> Missing:
    """The architecture is unknown, or the weights leave something of it open."""
    if proposed is None:
        return Missing(
            "architecture",
            "no known architecture fits its weights",
            "--arch NAME, --layers FILE.yaml (a list of layers), or --network FILE.py:CLASS (a file that is run)",
        )
    name = proposed if isinstance(proposed, str) else "a list of layers"
    reasons = [f"the weights do not tell {'; '.join(open_points)}"] if open_points else []
    reasons += [f"{proposals} architectures fit them"] if proposals > 1 else []
    return Missing(
        "architecture",
        f"{name} fits, but {' and '.join(reasons)}",
        "--yes to take it, --check-with FOLDER (labelled images), or --arch NAME or --layers FILE.yaml",
        acceptable=True,
    )


def missing_preprocessing(ranking: PreprocessingRanking | None) -> Missing:
    """The preprocessing is neither stated nor confirmed."""
    state = "--mean and --std (values of pixels in 0..1; --range 0..1 alone for none)"
    check = "--check-with FOLDER (labelled images)"
    if ranking is None:
        return Missing("preprocessing", "its preprocessing is stated nowhere", f"{state}, or {check}")
    if ranking.clear:
        return Missing(
            "preprocessing",
            f"its preprocessing is probably {ranking.describe()}",
            f"--accept-preprocessing to take it, or {state}, or {check}",
            acceptable=True,
        )
    known = "not clear" if ranking.ranked else "stated nowhere"
    return Missing("preprocessing", f"its preprocessing is {known}: {ranking.describe()}", f"{state}, or {check}")


def find_labels(path: Path, in_file: tuple[str, ...], outputs: int) -> tuple[str, ...] | int:
    """Labels in a file of weights or in a file beside it, if they are as many as the outputs; else that number.

    Args:
        path: The file of weights.
        in_file: Labels that it holds.
        outputs: Number of outputs.
    """
    if len(in_file) == outputs:
        return in_file
    for name in _LABEL_FILES:
        try:
            labels = read_labels(path.parent / name) if (path.parent / name).is_file() else ()
        except ConfigError:
            continue
        if len(labels) == outputs:
            return labels
    return outputs


def member_name(path: Path, zoo: Path, manifest: Manifest) -> str:
    """Name for a member: of its file; with its folder's, or a number, if another member has that name.

    A file that is in the manifest already keeps its name.

    Args:
        path: The file.
        zoo: The zoo's folder.
        manifest: Its manifest.
    """
    own = os.path.abspath(path)
    taken = {}
    for member in manifest.members:
        taken[member.member_name] = os.path.abspath(zoo / member.path)
    for name, file in taken.items():
        if file == own:
            return name
    plain = ManifestMember(path=path.name).member_name
    longer = ManifestMember(path=f"{path.absolute().parent.name}-{path.name}").member_name
    candidates = [plain, longer, *(f"{longer}-{number}" for number in range(2, len(taken) + 3))]
    entries = {entry.name for entry in zoo.iterdir()} - {path.name} if zoo.is_dir() else set()
    return next(name for name in candidates if name not in taken and name not in entries)
