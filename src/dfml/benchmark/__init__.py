"""Benchmarks: every method of a suite on the same zoos and the same episodes.

A suite (YAML) names zoos, methods, scenarios and tasks; a cell is one training with the evaluations of its learner.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

SUITES, ENDING = "suites", ".yaml"
"""Folder of the shipped suites in this package, and the ending of their files."""


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites that are part of dfml."""
    files = (resources.files(__name__) / SUITES).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(ENDING)))
