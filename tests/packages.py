"""Stand-ins for installed packages, which declare methods, class splits and the like."""

from __future__ import annotations

from pathlib import Path


def declare_entry_points(folder: Path, name: str, **groups: str) -> None:
    """Write what an installed package leaves in `folder` for others to find.

    Args:
        folder: A folder on Python's search path.
        name: Name of the package.
        **groups: Lines `NAME = MODULE:OBJECT` of each group of entry points, without the prefix `dfml.`.
    """
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"[dfml.{group}]\n{entries}\n" for group, entries in groups.items()]
    (about / "entry_points.txt").write_text("".join(lines))
