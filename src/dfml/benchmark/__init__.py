"""Suites of zoos, methods and tasks, measured cell by cell: every method on the same zoos and the same episodes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

SUITES, ENDING = "suites", ".yaml"


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites that are part of dfml."""
    files = (resources.files(__name__) / SUITES).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(ENDING)))
