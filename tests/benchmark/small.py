"""A suite that is too small to learn anything, for tests of what a benchmark computes and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dfml.benchmark.preparation import BenchmarkOptions, Plan, prepare
from dfml.benchmark.suite import Suite
from dfml.settings import merge

STEPS: dict[str, Any] = {
    "iterations": 2,
    "warm_up": 1,
    "snapshot_every": 1,
    "query": 2,
    "episodes": 1,
    "learner": {"calibration": None},
}
SUITE: dict[str, Any] = {
    "title": "Small",
    "datasets": {"glyphs": {"train_images": 6, "test_images": 8}},
    "zoos": {
        "letters": {
            "data": "glyphs@16",
            "members": 2,
            "way": 3,
            "disjoint": True,
            "recipe": "strong",
            "recipe_settings": {"epochs": 1},
        }
    },
    "methods": {"purer": {"settings": STEPS}, "zoo_embedding": {}, "average": {"optional": True}},
    "scenarios": {"letters": {"zoos": "letters", "tests": "glyphs"}},
    "tasks": [{"way": 3, "shot": 1}, {"way": 4, "shot": [1, 2]}],
    "query": 3,
    "episodes": 6,
    "curve_episodes": 3,
}


def suite(**changes: Any) -> Suite:
    """The small suite with some entries changed."""
    return Suite(**merge(SUITE, changes))


def plan(out: Path, **changes: Any) -> Plan:
    """The prepared work of the small suite."""
    return prepare(options(out, **changes))


def options(out: Path, **changes: Any) -> BenchmarkOptions:
    """Options for the small suite."""
    return BenchmarkOptions("small", suite(**changes), out.parent, out, {}, {}, device="cpu")


def write(path: Path, **changes: Any) -> Path:
    """Write the small suite as a file."""
    path.write_text(yaml.safe_dump(merge(SUITE, changes), sort_keys=False), encoding="utf-8")
    return path
