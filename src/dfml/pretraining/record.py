"""The record of a zoo's folder, `zoo.json`: its settings, so that only a build with the same settings resumes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dfml.data.dataset import ImageDataset
from dfml.errors import RunError
from dfml.files import atomic_write, remove_unfinished
from dfml.pretraining.recipes import Recipe
from dfml.zoo.folder import RECORD


def dataset_record(dataset: ImageDataset) -> dict[str, Any]:
    """Identity of a data set: its name, its extent and a digest of its classes, labels and images."""
    digest = hashlib.sha256("\n".join(dataset.classes).encode())
    digest.update(dataset.labels.numpy().tobytes())
    for images in torch.split(dataset.images, 4096):
        digest.update(images.contiguous().numpy().data)
    return {
        "name": dataset.name,
        "classes": len(dataset.classes),
        "images": len(dataset),
        "size": dataset.images.shape[-1],
        "sha256": digest.hexdigest(),
    }


def recipe_record(recipe: Recipe, sizes: Iterable[int], batch_norms: Iterable[bool]) -> dict[str, Any]:
    """The recipe's settings and, for each size at which it is another number than the setting, the crop padding.

    The optimiser of networks without batch-norm layers is left out if the zoo has none. So the record of a zoo that a
    version without these settings would train alike is the one that such a version writes, and the zoo can be resumed.

    Args:
        recipe: The recipe.
        sizes: Side length of the images of every data set, in pixels.
        batch_norms: Whether the network has batch-norm layers, for every architecture.
    """
    settings = recipe.model_dump(mode="json", exclude=None if not all(batch_norms) else {"no_batch_norm"})
    paddings = {str(size): recipe.padding(size) for size in sorted(sizes)}
    larger = {size: padding for size, padding in paddings.items() if padding != recipe.crop_padding}
    return {**settings, **({"crop_padding_by_size": larger} if larger else {})}


def open_zoo_folder(out: Path, settings: dict[str, Any]) -> None:
    """Create the folder and write the record, or check that it holds an unfinished zoo of the same settings.

    Members that an interrupted build had not finished writing are removed.

    Args:
        out: The zoo's folder.
        settings: Settings of the build, as plain JSON values.

    Raises:
        RunError: If the folder holds something else, was built with other settings, or cannot be written.
    """
    record = out / RECORD
    try:
        if record.is_file():
            _compare(out, json.loads(record.read_text(encoding="utf-8")), settings)
            remove_unfinished(out)
            return
        if out.exists() and not out.is_dir():
            raise RunError(f"expected a folder for the zoo, found the file {out}; choose another folder")
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise RunError(f"expected a new or empty folder, found other files in {out}; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(record, json.dumps(settings, indent=1) + "\n")
    except ValueError as error:
        raise RunError(f"{record} is damaged ({error}); choose another folder") from error
    except OSError as error:
        raise RunError(f"cannot write the zoo to {out} ({error.strerror}); choose another folder") from error


def _compare(out: Path, recorded: Any, settings: dict[str, Any]) -> None:
    before, after = _flat(recorded), _flat(settings)
    differences = [
        f"{key} is {before.get(key, 'not set')} there and {after.get(key, 'not set')} here"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if differences:
        more = f" ({len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise RunError(
            f"{out} holds a zoo of other settings: {differences[0]}{more}; "
            "choose another folder, or repeat its settings to resume it"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten `{"recipe": {"epochs": 60}}` to `{"recipe.epochs": 60}`."""
    if isinstance(value, dict):
        items = [(str(name), part) for name, part in value.items()]
    elif isinstance(value, list):
        items = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {key: value}
    return {path: leaf for name, part in items for path, leaf in _flat(part, f"{key}.{name}" if key else name).items()}
