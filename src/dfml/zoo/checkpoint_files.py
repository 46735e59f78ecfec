"""Checkpoints of other people: the weights, class names and accuracy in a file, whatever they are wrapped in.

Files are safetensors, or pickles by `torch.load(..., weights_only=True)` and nothing else. Classes that such a pickle
names beside its tensors, such as the options of a training script, become inert placeholders.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dfml.errors import ZooMemberError
from dfml.files import open_regular_file
from dfml.zoo.label_files import labels_in
from dfml.zoo.pickle_contents import MAX_BYTES, printable, read_pickle_contents
from dfml.zoo.sniffing import Kind, sniff
from dfml.zoo.state_dicts import find_state_dict, tidy
from dfml.zoo.trial import try_first

MAX_FILE_BYTES = 32 * 2**30
"""Largest file that is read; larger than any published image classifier."""

_READ = frozenset({Kind.SAFETENSORS, Kind.TENSORS, Kind.LIGHTNING})
_AGAIN = "download it again, or add another file"
_ACCURACIES = (
    *("held_out_accuracy", "best_acc", "best_acc1", "best_prec1", "best_accuracy", "best_top1", "best_val_acc"),
    *("best_test_acc", "best_metric", "acc", "acc1", "accuracy", "prec1", "top1", "val_acc", "val_accuracy"),
    *("test_acc", "test_accuracy", "metric"),
)
_LABEL_KEYS = (
    *("classes", "class_names", "names", "labels", "label_names", "categories", "class_to_idx", "idx_to_class"),
    *("id2label", "label2id", "idx2label", "label_map"),
)
_FLOATS = {"f4": "<f", "f8": "<d"}  # numpy's names of its scalars


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one classifier.

    Attributes:
        path: The file.
        state_dict: Tensors by name, without prefixes that all names share, floating-point ones as float32; in the
            file's order.
        labels: Class names that the file carries, in the order of the outputs; empty if it has none.
        details: What else it says and what was done to it: `held_out_accuracy` (a fraction), `entry` (the key that the
            weights were under), `prefix` (what was removed from all names), `stored_as` (a type that was widened),
            `left_out` (names of tensors that belong to no network, such as counters of a profiler).
    """

    path: Path
    state_dict: dict[str, Tensor]
    labels: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a file, without running anything that it contains.

    Weights under `state_dict`, `model`, `net` and the like are unwrapped, prefixes such as `module.` removed, half
    precision widened, and missing `num_batches_tracked` of batch-norm layers filled in.

    Args:
        path: A safetensors file, or one that `torch.save` wrote in any release.

    Raises:
        ZooMemberError: If it is of another kind, damaged, out of bounds, or holds no weights; of a pickle, also if
            reading it takes too much time or memory (`dfml.zoo.trial`).
    """
    found = sniff(path)
    if found.kind not in _READ:
        reason = found.reason or f"expected a file of weights, found a file of the kind {found.kind.value!r}"
        raise ZooMemberError(path, reason, found.fix or "give the file that holds the weights")
    if path.stat().st_size > MAX_FILE_BYTES:
        reason = f"expected at most {MAX_FILE_BYTES} bytes, found {path.stat().st_size}"
        raise ZooMemberError(path, reason, "save only the weights, not the optimiser's state")
    if found.kind is not Kind.SAFETENSORS:
        try_first("checkpoint", path)
    content = _read_safetensors(path) if found.kind is Kind.SAFETENSORS else _read_pickle(path)
    weights, entry = find_state_dict(content)
    if weights is None:
        reason = "expected named tensors, by themselves or under a key such as `state_dict`, found none"
        raise ZooMemberError(path, reason, "ask its owner for a file of the network's state_dict()")
    _check_sizes(path, weights)
    state_dict, details = tidy(weights)
    details |= {"entry": entry} if entry else {}
    return Checkpoint(path, state_dict, _labels(content, entry), details | _accuracy(content))


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ZooMemberError(path, f"its safetensors content is damaged ({printable(str(error))})", _AGAIN) from error


class _Inert:
    """Stands for an object of a class that is not loaded. It keeps what it was made from and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _read_pickle(path: Path) -> Any:
    """The object in a file of `torch.save`.

    Raises:
        ZooMemberError: If `weights_only=True` refuses it, or the file declares more bytes than it has.
    """
    _check_zip(path)
    names = _foreign_names(path)
    # One class per name: torch compares what it builds with the classes that are allowed.
    inert: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in names]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise errors of any type
        reason = printable(_said(error), limit=200)
        message = f"torch.load(..., weights_only=True) cannot read it ({type(error).__name__}: {reason})"
        raise ZooMemberError(path, message, "ask its owner for a file of the network's state_dict()") from error


def _said(error: Exception) -> str:
    """What torch says is wrong, without its advice to load the file with `weights_only=False`."""
    said = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2]
    for advice in (" Please use", " In PyTorch 2.6", " Check the documentation", " Re-running"):
        said = said.partition(advice)[0]
    return said


def _foreign_names(path: Path) -> tuple[str, ...]:
    """Names in a file's pickle that `weights_only=True` does not know."""
    with open_regular_file(path) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return read_pickle_contents(file.read(MAX_BYTES)).foreign
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(pickles[0]) as pickled:
                return read_pickle_contents(pickled.read(MAX_BYTES)).foreign


def _check_zip(path: Path) -> None:
    """Refuse a zip that unpacks to more bytes than it has: torch never compresses.

    Raises:
        ZooMemberError: See above.
    """
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
        packed = sum(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    if declared > size or packed:
        reason = f"it has {size} bytes and would unpack to {declared} ({packed} entries are compressed)"
        raise ZooMemberError(path, reason, "save it again with torch.save, which does not compress")


def _check_sizes(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors that take more memory than the file: views that repeat a few values without end.

    Raises:
        ZooMemberError: See above.
    """
    size = path.stat().st_size
    for name, tensor in weights.items():
        wanted = tensor.numel() * tensor.element_size()
        if tensor.layout is not torch.strided or tensor.is_quantized or wanted > size:
            shape = tuple(tensor.shape)
            reason = f"{printable(name)} of shape {shape} is no plain tensor, or larger than the file ({size} bytes)"
            raise ZooMemberError(path, reason, "save plain, dense weights")
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if total > 4 * size:  # weights that layers share are counted once for each
        reason = f"its tensors have {total} bytes together, the file {size}"
        raise ZooMemberError(path, reason, "save every weight once")


def _labels(content: Any, entry: str) -> tuple[str, ...]:
    """Class names beside the weights or in the dictionary that holds them."""
    for part in (content, *(content.values() if isinstance(content, Mapping) else ())):
        for key in _LABEL_KEYS if isinstance(part, Mapping) else ():
            value = part.get(key)
            if isinstance(value, Mapping | list | tuple) and (labels := labels_in(value)):
                return labels
    return ()


def _accuracy(content: Any) -> dict[str, float]:
    """Accuracy on held-out images that a training script noted, as a fraction; values above 1 are percentages."""
    for key in _ACCURACIES if isinstance(content, Mapping) else ():
        value = _number(content.get(key))
        if value is not None and 0.0 < value <= 100.0:
            return {"held_out_accuracy": value if value <= 1.0 else value / 100.0}
    return {}


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, _Inert) and len(value.arguments) == 2:  # a number of numpy: its type and its bytes
        kind, data = value.arguments
        code = _FLOATS.get(str(kind.arguments[0])) if isinstance(kind, _Inert) and kind.arguments else None
        if code and isinstance(data, bytes) and len(data) == struct.calcsize(code):
            return float(struct.unpack(code, data)[0])
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
