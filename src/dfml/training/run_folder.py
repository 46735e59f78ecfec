"""A run's folder: what was asked for, what happened, where to go on, and the learner that came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dfml.errors import RunError
from dfml.files import atomic_write
from dfml.training.checkpoint import list_checkpoints
from dfml.zoo.label_space import ClassIdentity
from dfml.zoo.zoo import Zoo

CONFIG, METRICS, CHECKPOINTS, SNAPSHOTS = "config.yaml", "metrics.jsonl", "checkpoints", "snapshots"


class RunFolder:
    """`config.yaml`, `metrics.jsonl`, `checkpoints/`, `snapshots/`, and at the end the learner's own files.

    Args:
        path: The folder.

    Attributes:
        metrics: One JSON object a meta-iteration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / METRICS
        self.checkpoints = path / CHECKPOINTS
        self.snapshots = path / SNAPSHOTS

    def create(self, about: dict[str, Any]) -> None:
        """Start a new run here.

        Raises:
            RunError: If the folder holds anything, or cannot be written.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(
                f"{self.path} is not empty; choose another --out, or continue the run that it holds with --resume"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / CONFIG).write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}); choose another --out") from error

    def check(self, about: dict[str, Any]) -> None:
        """Make sure that the run here was started with the same settings.

        Raises:
            RunError: If there is no run, or its settings differ; it names which.
        """
        try:
            held = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"there is no run to resume at {self.path}; start one without --resume") from error
        differences = [
            f"{name} {old!r} -> {new!r}" for name, old, new in _differences(flatten(held or {}), flatten(about))
        ]
        if differences:
            raise RunError(
                f"{self.path} holds a run with other settings ({'; '.join(differences[:3])}"
                f"{'; ...' if len(differences) > 3 else ''}); resume with the same ones, or choose another --out"
            )

    def started_from(self) -> Path | None:
        """The checkpoint of another run that the one here began with, if it did."""
        try:
            held = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return None
        return Path(held["start_from"]) if isinstance(held, dict) and held.get("start_from") else None

    def newest_checkpoint(self) -> Path | None:
        """Where to go on."""
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_metrics(self, iteration: int) -> None:
        """Drop lines after `iteration`: they are about to be made again."""
        rows = [row for row in self.read_metrics() if row["iteration"] <= iteration]
        atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines; a line that was cut short by a crash is left out."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows


def list_snapshots(run: Path) -> list[Path]:
    """The learners that a run has saved on its way, oldest first."""
    return sorted(path for path in (run / SNAPSHOTS).glob("*") if path.name.isdigit())


def describe(method: str, config: BaseModel, zoo: Zoo, start_from: Path | None = None) -> dict[str, Any]:
    """What a run's `config.yaml` holds; a zoo whose members or classes have changed shows.

    Args:
        method: Its name.
        config: All its settings.
        zoo: What it learns from.
        start_from: A checkpoint of another run that it began with.

    Raises:
        ZooMemberError: If a member's weights cannot be used.
    """
    return {
        "method": method,
        "zoo": str(zoo.path) if zoo.path else "memory",
        "class_identity": _plain(zoo.class_identity),
        "members": f"{len(zoo)} ({zoo.digest()})",
        "classes": f"{len(zoo.classes)} ({zoo.classes.digest()})",
        **({"start_from": str(start_from)} if start_from else {}),
        method: config.model_dump(mode="json"),
    }


def _plain(identity: ClassIdentity) -> str | dict[str, dict[str, str]]:
    """A class identity as YAML can hold it."""
    return identity if isinstance(identity, str) else {member: dict(labels) for member, labels in identity.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
