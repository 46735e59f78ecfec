"""Checkpoints of a run. A checkpoint is complete or absent, even if the process is killed while it is written.

A checkpoint is a folder with `state.safetensors`, `state.json` (plain values), and `manifest.json`, which holds the
SHA-256 of both. It is written under another name, flushed to the disk, and renamed last.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfml.errors import RunError
from dfml.files import (
    FORMAT_VERSION,
    atomic_folder,
    check_format_version,
    remove_folder,
    remove_unfinished,
    save_tensors,
)

_TENSORS, _VALUES, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass
class State:
    """Everything that a run needs to continue.

    Attributes:
        tensors: Tensors by name.
        values: Plain values that JSON can represent exactly. The names `format_version`, `iteration` and
            `learned_engine` are reserved: the training loop adds them; do not set them.
        any_length: Names of tensors whose number of rows may differ between the checkpoint and the run that loads it;
            set by the run, not saved.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    any_length: frozenset[str] = frozenset()


def save_checkpoint(folder: Path, iteration: int, state: State, *, keep: int = 2) -> Path:
    """Write the checkpoint `folder/NNNNNN` and remove all but the newest checkpoints.

    Args:
        folder: Folder of a run's checkpoints; created if it is missing.
        iteration: Number of finished meta-iterations.
        state: State of the run after them.
        keep: Number of checkpoints that stay, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: If the disk is full or not writable; older checkpoints are untouched then.
    """
    final = folder / f"{iteration:06d}"
    remove_unfinished(folder)
    with atomic_folder(final, replace=True, fsync=True) as unfinished:
        save_tensors(state.tensors, unfinished / _TENSORS)
        values = {"format_version": FORMAT_VERSION, "iteration": iteration, **state.values}
        (unfinished / _VALUES).write_text(json.dumps(values), encoding="utf-8")
        manifest = {name: _digest(unfinished / name) for name in (_TENSORS, _VALUES)}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for old in list_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders with a manifest, in the order of their iteration; empty if `folder` does not exist."""
    if not folder.is_dir():
        return []
    complete = (path for path in folder.iterdir() if path.name.isdecimal() and (path / _MANIFEST).is_file())
    return sorted(complete, key=lambda path: int(path.name))


def load_checkpoint(path: Path, device: torch.device) -> tuple[int, State]:
    """Read a checkpoint and compare it with its manifest.

    Args:
        path: The checkpoint's folder.
        device: Device of the tensors.

    Returns:
        The number of finished meta-iterations, and the state after them.

    Raises:
        RunError: If the checkpoint is damaged, or of another format version.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, digest in manifest.items() if _digest(path / name) != digest]
        if changed:
            raise RunError(f"checkpoint {path} is damaged ({changed[0]} differs from its manifest); remove that folder")
        values = json.loads((path / _VALUES).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS, device=str(device))
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"checkpoint {path} cannot be read ({error}); remove that folder") from error
    check_format_version(values.pop("format_version", None), f"checkpoint {path}", RunError)
    return values.pop("iteration"), State(tensors, values)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
