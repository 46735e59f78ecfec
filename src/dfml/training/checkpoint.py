"""Checkpoints that are whole or absent, whatever happens while they are written.

A checkpoint is a folder: `state.safetensors`, `state.json` (plain values), and `manifest.json` with the digest of
both. It is written under another name, flushed to the disk, and renamed last.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfml.errors import RunError
from dfml.files import atomic_folder, remove_unfinished, save_tensors

_TENSORS, _VALUES, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass
class State:
    """All that a run needs to go on: tensors, and plain values that JSON can hold exactly.

    Attributes:
        any_length: Names of the tensors of which a checkpoint may hold more or fewer rows than the run that reads it.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    any_length: frozenset[str] = frozenset()


def save_checkpoint(folder: Path, iteration: int, state: State, *, keep: int = 2) -> Path:
    """Write `folder/NNNNNN` atomically and remove all but the newest `keep` checkpoints.

    Raises:
        OSError: If the disk is full or not writable; older checkpoints are untouched then.
    """
    final = folder / f"{iteration:06d}"
    remove_unfinished(folder)
    with atomic_folder(final, replace=True, fsync=True) as unfinished:
        save_tensors(state.tensors, unfinished / _TENSORS)
        (unfinished / _VALUES).write_text(json.dumps({"iteration": iteration, **state.values}), encoding="utf-8")
        manifest = {name: _digest(unfinished / name) for name in (_TENSORS, _VALUES)}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and (path / _MANIFEST).is_file())


def load_checkpoint(path: Path, device: torch.device) -> tuple[int, State]:
    """Read a checkpoint, compared with its manifest.

    Raises:
        RunError: If it is damaged.
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
    return values.pop("iteration"), State(tensors, values)


def shape_mismatch(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], any_length: frozenset[str] = frozenset()
) -> str | None:
    """What the first tensor is that is missing or of another shape, in words; None if all fit. Others may be there."""
    for name, value in expected.items():
        held = found.get(name)
        rows = int(name in any_length)
        if held is None or held.ndim != value.ndim or held.shape[rows:] != value.shape[rows:]:
            is_held = "is missing" if held is None else f"has shape {tuple(held.shape)}"
            return f"{name} {is_held}, expected {tuple(value.shape)}"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
