"""The folder of a run: its settings, metrics, checkpoints, snapshots and the trained learner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dfml.errors import RunError
from dfml.files import FORMAT_VERSION, atomic_write, check_format_version
from dfml.training.checkpoint import list_checkpoints
from dfml.zoo.label_space import ClassIdentity
from dfml.zoo.zoo import Zoo

CONFIG, METRICS, CHECKPOINTS, SNAPSHOTS = "config.yaml", "metrics.jsonl", "checkpoints", "snapshots"


class RunFolder:
    """A folder with `config.yaml`, `metrics.jsonl`, `checkpoints/`, `snapshots/`, and at the end the learner's files.

    Args:
        path: The folder; it need not exist.

    Attributes:
        metrics: File with one JSON object per meta-iteration.
        checkpoints: Folder of the checkpoints.
        snapshots: Folder of the learners that were saved during training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / METRICS
        self.checkpoints = path / CHECKPOINTS
        self.snapshots = path / SNAPSHOTS

    def create(self, about: dict[str, Any]) -> None:
        """Create the folder of a new run and write its `config.yaml`.

        Args:
            about: Content of the file, from `describe`; the format version is added.

        Raises:
            RunError: If the folder is not empty, or cannot be written.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            resume = ", or resume the run that it holds (--resume; in Python resume=True)"
            raise RunError(
                f"{self.path} is not empty; choose another folder (--out){resume if self.newest_checkpoint() else ''}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump({"format_version": FORMAT_VERSION, **about}, sort_keys=False)
            (self.path / CONFIG).write_text(text, encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}); choose another folder (--out)"
            ) from error

    def check(self, about: dict[str, Any]) -> None:
        """Check that the run in the folder was started with the same settings.

        Args:
            about: Settings of the run to resume, from `describe`.

        Raises:
            RunError: If there is no run, it has another format version, or its settings differ; names those that do.
        """
        try:
            config = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"there is no run to resume at {self.path}; start one without --resume") from error
        config = config if isinstance(config, dict) else {}
        check_format_version(config.pop("format_version", None), f"the run {self.path}", RunError)
        differences = [f"{name} {old!r} -> {new!r}" for name, old, new in _differences(flatten(config), flatten(about))]
        if differences:
            raise RunError(
                f"{self.path} holds a run with other settings ({'; '.join(differences[:3])}"
                f"{'; ...' if len(differences) > 3 else ''}); resume with the same ones (--config "
                f"{self.path / CONFIG}), or choose another folder (--out)"
            )

    def started_from(self) -> Path | None:
        """The checkpoint of another run that this run started from; None if it did not, or there is no run."""
        start = self.stated("start_from")
        return Path(start) if start else None

    def stated(self, name: str) -> Any:
        """An entry of `config.yaml`, as `describe` wrote it; None if there is no such entry, or no run."""
        try:
            config = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return None
        return config.get(name) if isinstance(config, dict) else None

    def left_out(self) -> list[str]:
        """Names of the zoo's members that the run has left out; empty if it has none, or there is no run."""
        names = self.stated("left_out")
        return [str(name) for name in names] if isinstance(names, list) else []

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint; None if there is none."""
        checkpoints = list_checkpoints(self.checkpoints)
        return checkpoints[-1] if checkpoints else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_metrics(self, iteration: int) -> None:
        """Delete the metrics after meta-iteration `iteration`, which a resumed run computes again."""
        rows = [row for row in self.read_metrics() if row["iteration"] <= iteration]
        atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of the metrics; a line that was cut off by a crash is left out."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at a path, which may be a run's folder: then it is the newest one.

    Args:
        path: `RUN/checkpoints/N` or `RUN`.

    Raises:
        RunError: If there is none.
    """
    if path in list_checkpoints(path.parent):
        return path
    newest = RunFolder(path).newest_checkpoint()
    if newest is None:
        raise RunError(
            f"expected a checkpoint (RUN/checkpoints/N), or the folder of a run with one, at {path}, found none; check "
            "--from, or `start_from` in the --config file"
        )
    return newest


def list_snapshots(run: Path) -> list[Path]:
    """Folders of the learners that a run has saved during training, oldest first."""
    numbered = (path for path in (run / SNAPSHOTS).glob("*") if path.name.isdecimal())
    return sorted(numbered, key=lambda path: int(path.name))


def describe(method: str, config: BaseModel, zoo: Zoo, start_from: Path | None = None) -> dict[str, Any]:
    """Content of a run's `config.yaml`; it differs if members or classes of the zoo have changed.

    Args:
        method: Name of the method.
        config: All settings of the method.
        zoo: The zoo that the run learns from.
        start_from: Checkpoint of another run that the run starts from.

    Raises:
        ZooMemberError: If a member's weights cannot be used.
    """
    return {
        "method": method,
        "zoo": zoo.source if len(zoo.paths) < 2 else [str(path) for path in zoo.paths],
        "class_identity": _plain(zoo.class_identity),
        "members": f"{len(zoo)} ({zoo.digest()})",
        **({"left_out": sorted(zoo.left_out)} if zoo.left_out else {}),
        "classes": describe_classes(zoo),
        **({"start_from": str(start_from)} if start_from else {}),
        method: config.model_dump(mode="json"),
    }


def describe_classes(zoo: Zoo) -> str:
    """Number of classes, and a digest of their names and of the members' outputs."""
    return f"{len(zoo.classes)} ({zoo.classes.digest()})"


def _plain(identity: ClassIdentity) -> str | dict[str, dict[str, str]]:
    """A class identity as plain values for YAML."""
    return identity if isinstance(identity, str) else {member: dict(labels) for member, labels in identity.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Args:
        values: Nested mappings; an empty one is kept as a value.
        prefix: Put before every name.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Names whose values differ, with the old and the new value (None where the name is missing)."""
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
