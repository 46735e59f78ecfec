"""Saved learners and classifiers: their files, their kinds by name, and the errors of what cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfml.errors import DfmlError, LearnerError
from dfml.files import atomic_file, atomic_write, check_format_version, save_tensors, shape_mismatch

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Modules of dfml's own kinds of learners and classifiers, which are imported when one is loaded.
_OWN_KINDS = {
    **{kind: kind for kind in ("anil", "embedding", "maml", "protonet", "student", "zoo_embedding")},
    "network": "network_classifier",
}

Kind = TypeVar("Kind")
Built = TypeVar("Built")


def add_kind(kinds: dict[str, type[Kind]], kind: type[Kind]) -> None:
    """Register a class under its `kind`, the name that `config.json` holds; a class without its own is left out.

    Raises:
        TypeError: If another class has the same `kind`, so that a saved config would be ambiguous.
    """
    name = vars(kind).get("kind")
    if name is None:
        return
    known = kinds.get(name, kind)
    # A class that is defined again (a notebook cell run twice, a module reloaded) replaces its former definition.
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise TypeError(
            f"{kind.__qualname__}: expected a `kind` of its own, found {name!r}, which is "
            f"{known.__module__}.{known.__qualname__}; choose another"
        )
    kinds[name] = kind


def find_kind(kinds: Mapping[str, type[Kind]], name: str) -> type[Kind] | None:
    """Look up a kind of learner or classifier by the name in its `config.json`.

    If no imported module defines the kind, dfml's own module of the kind is imported; otherwise the modules that
    installed packages declare as entry points in the group `dfml.learners` under this name.

    Returns:
        None if the kind is unknown.
    """
    if name not in kinds and name in _OWN_KINDS:
        import_module(f"dfml.learners.{_OWN_KINDS[name]}")
    if name not in kinds:
        for entry_point in entry_points(group="dfml.learners", name=name):
            entry_point.load()
    return kinds.get(name)


def write_pretrained(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write `config.json` and, if there are tensors, `model.safetensors` to an existing folder.

    Files of these names are replaced once both new ones are complete.

    Raises:
        OSError: If the folder cannot be written.
    """
    text = json.dumps(config, indent=1) + "\n"
    if not tensors:
        atomic_write(folder / CONFIG, text)
        (folder / WEIGHTS).unlink(missing_ok=True)  # of what was saved there before
        return
    with atomic_file(folder / CONFIG) as new_config, atomic_file(folder / WEIGHTS) as new_weights:
        save_tensors(tensors, new_weights)
        new_config.write_text(text, encoding="utf-8")


def read_pretrained(folder: Path, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `config.json` and, if it exists, `model.safetensors`, which `write_pretrained` wrote.

    Args:
        folder: Folder of a learner or classifier.
        what: What the folder should hold, for error messages.

    Raises:
        LearnerError: If `config.json` is missing, a file is damaged, the config names no kind, or it has another format
            version. A missing `model.safetensors` is no error here; see `build_pretrained`.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise LearnerError(f"expected a saved {what} at {folder}, found none that can be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        raise LearnerError(f"expected a saved {what} at {folder}, but its {CONFIG} names no `kind`; check the path")
    check_format_version(config.get("format_version"), str(folder / CONFIG))
    return config, tensors


def build_pretrained(
    from_config: Callable[[dict[str, Any], dict[str, Tensor]], Built],
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Built:
    """Build what `read_pretrained` has read, and name the folder in the errors.

    Args:
        from_config: Method of the kind in the config.
        folder: Folder of the learner or classifier.
        config: Content of its `config.json`.
        tensors: Content of its `model.safetensors`; empty if there is none.

    Raises:
        LearnerError: If an entry of the config or a tensor is missing or unsuitable.
    """
    without = "" if tensors else f" (there is no {WEIGHTS})"
    advice = "restore the folder, or save it again"
    try:
        return from_config(config, tensors)
    except KeyError as error:
        raise LearnerError(
            f"{folder}: expected {error} in the {CONFIG} or {WEIGHTS} of the kind {config['kind']!r}, found none"
            f"{without}; {advice}"
        ) from error
    except LearnerError as error:
        raise LearnerError(f"{folder}: {error}{without}") from error
    except (DfmlError, ValueError) as error:
        raise LearnerError(
            f"{folder}: expected a {CONFIG} of the kind {config['kind']!r}, found a wrong value in it "
            f"({' '.join(str(error).split())}); {advice}"
        ) from error


def what_is_saved(config: Mapping[str, Any]) -> Literal["learner", "classifier"] | None:
    """Tell the `config.json` of a learner from that of a classifier, also of an unknown kind; None if it is neither.

    The entries are those that `MetaLearner.get_config` and `FewShotClassifier.get_config` have for every kind.
    """
    if {"way", "protocol"} <= config.keys():
        return "learner"
    return "classifier" if "labels" in config else None


def require_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], any_length: frozenset[str] = frozenset()
) -> None:
    """Check that tensors from a file are those that a network needs; see `dfml.files.shape_mismatch`.

    Raises:
        LearnerError: If one is missing or has another shape.
    """
    problem = shape_mismatch(found, expected, any_length)
    if problem:
        raise LearnerError(f"the tensor {problem}; restore {WEIGHTS}, or save it again")
