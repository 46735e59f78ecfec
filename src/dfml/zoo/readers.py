"""From a folder on disk, which nobody has vetted, to a `PretrainedClassifier`. Nothing in the folder is executed.

A member is a folder as timm writes it for `local-dir:`: `config.json` and `model.safetensors`. The network is built
from the vetted architecture and arguments without memory for its weights, compared with the weight file, and only then
loaded, strictly. (timm's own `pretrained=True` drops a head of another size and keeps a random one.)
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dfml.errors import DfmlError, ZooMemberError
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier

CONFIG, WEIGHTS = "config.json", "model.safetensors"

_LFS_MARK = b"version https://git-lfs"
# Beyond what any classifier needs; a damaged or hostile configuration shall not fill the memory.
_MOST_CLASSES, _LARGEST_SIZE = 1_000_000, 4096
# `create_backbone` takes these from elsewhere.
_RESERVED = frozenset({"architecture", "num_classes", "seed"})
_RETRAIN = "restore the file from where the member came from, or remove the member"


@dataclass(frozen=True)
class MemberConfig:
    """What a member says of itself in its `config.json`.

    Attributes:
        path: The member's folder.
        architecture: A name in timm's registry.
        labels: One name an output.
        preprocessing: Size, mean and standard deviation of the network's input.
        arguments: Of the architecture, such as `img_size`.
        details: Whatever else the member's maker noted (`dfml` in the file): recipe, seed, held-out accuracy.
    """

    path: Path
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name


def read_member_config(folder: Path) -> MemberConfig:
    """Read and check a member's `config.json`.

    Raises:
        ZooMemberError: If the file is missing, is not JSON, or lacks or contradicts what a classifier needs.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooMemberError(folder, f"{CONFIG} cannot be read ({error.strerror})", _RETRAIN) from error
    except (ValueError, RecursionError) as error:
        raise ZooMemberError(folder, f"{CONFIG} is not valid JSON ({error})", _RETRAIN) from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ZooMemberError(
            folder, f"expected `architecture` (a timm name) in {CONFIG}", "add it as timm's `local-dir:` format has it"
        )
    pretrained = config.get("pretrained_cfg") or {}
    arguments, details = config.get("model_args") or {}, config.get("dfml") or {}
    if not all(isinstance(part, dict) for part in (pretrained, arguments, details)):
        raise ZooMemberError(folder, f"`pretrained_cfg`, `model_args` and `dfml` in {CONFIG} must be objects", _RETRAIN)
    return MemberConfig(
        path=folder,
        architecture=config["architecture"],
        labels=_labels(folder, config, pretrained),
        preprocessing=_preprocessing(folder, pretrained),
        arguments=arguments,
        details=details,
    )


def _labels(folder: Path, config: dict[str, Any], pretrained: dict[str, Any]) -> tuple[str, ...]:
    count = config.get("num_classes", pretrained.get("num_classes"))
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_CLASSES:
        raise ZooMemberError(
            folder, f"expected `num_classes` from 1 to {_MOST_CLASSES} in {CONFIG}, found {count!r}", "correct it"
        )
    names = config.get("label_names", pretrained.get("label_names"))
    if names is None:
        return tuple(str(index) for index in range(count))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ZooMemberError(folder, f"`label_names` in {CONFIG} must be a list of strings", "correct it")
    if len(names) != count or len(set(names)) != count:
        raise ZooMemberError(
            folder,
            f"{CONFIG} has `num_classes` {count} but {len(names)} `label_names` ({len(set(names))} distinct)",
            "make both agree with the head of the weight file",
        )
    return tuple(names)


def _preprocessing(folder: Path, pretrained: dict[str, Any]) -> Preprocessing:
    try:
        channels, height, width = pretrained["input_size"]
        mean, std = tuple(map(float, pretrained["mean"])), tuple(map(float, pretrained["std"]))
        valid = channels == 3 and height == width and len(mean) == len(std) == 3
        valid = valid and isinstance(height, int) and 1 <= height <= _LARGEST_SIZE
        valid = valid and all(math.isfinite(value) for value in mean + std) and min(std) > 0
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        found = {key: pretrained.get(key) for key in ("input_size", "mean", "std")}
        raise ZooMemberError(
            folder,
            f"expected `input_size` [3, size, size], three values of `mean`, three of `std` in `pretrained_cfg`, "
            f"found {found}",
            "state what the classifier was trained with; a guess would silently spoil its answers",
        )
    return Preprocessing(int(height), mean, std)  # type: ignore[arg-type]


def load_member(config: MemberConfig) -> PretrainedClassifier:
    """Build the member's network, compare it with the weight file, load strictly, and let it classify one image.

    Half-precision weights are widened to float32.

    Raises:
        ZooMemberError: If the architecture is unknown, or the weight file is missing, truncated, of another network, or
            holds values that are not finite, or the network cannot classify an image of the size that it claims.
    """
    network = _build(config)
    weights = _read_weights(config)
    _compare(config, network.state_dict(), weights)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ZooMemberError(config.path, f"{WEIGHTS} holds NaN or infinite values in {name}", _RETRAIN)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        # A buffer that is computed at construction and not saved: build once more, with memory.
        network = _build(config, device="cpu")
        network.load_state_dict(weights, strict=True)
    classifier = PretrainedClassifier(network, config.labels, config.preprocessing, source=str(config.path))
    _try(config, classifier)
    return classifier


@torch.no_grad()  # not inference mode: a network may keep what it computes for a size
def _try(config: MemberConfig, classifier: PretrainedClassifier) -> None:
    size = config.preprocessing.size
    try:
        logits = classifier.network(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ZooMemberError(
            config.path,
            f"{config.architecture} cannot classify an image of {size} x {size} pixels, the `input_size` ({reason})",
            f"correct `input_size` or `model_args` in {CONFIG}",
        ) from error
    if logits.shape != (1, len(config.labels)) or not bool(torch.isfinite(logits).all()):
        found = f"{tuple(logits.shape[1:])} scores, {int(logits.isfinite().sum())} of them finite"
        raise ZooMemberError(
            config.path, f"expected {len(config.labels)} finite scores for a grey image, found {found}", _RETRAIN
        )


def _build(config: MemberConfig, device: str = "meta") -> nn.Module:
    from dfml.backbones import create_backbone

    reserved = sorted(_RESERVED & config.arguments.keys())
    if reserved:
        raise ZooMemberError(
            config.path, f"`model_args` in {CONFIG} may not hold {', '.join(reserved)}", "remove them from `model_args`"
        )
    try:
        with torch.device(device):
            return create_backbone(config.architecture, len(config.labels), **config.arguments)
    except DfmlError as error:
        raise ZooMemberError(config.path, str(error), f"correct `architecture` or `model_args` in {CONFIG}") from error


def _read_weights(config: MemberConfig) -> dict[str, Tensor]:
    path = config.path / WEIGHTS
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_MARK)) == _LFS_MARK:
                raise ZooMemberError(
                    config.path, f"{WEIGHTS} is a git-lfs pointer, not the weights", "run `git lfs pull`"
                )
        with safe_open(path, framework="pt") as weights:
            return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except OSError as error:
        reason = error.strerror or str(error)
        raise ZooMemberError(config.path, f"{WEIGHTS} cannot be read ({reason})", _RETRAIN) from error
    except SafetensorError as error:
        raise ZooMemberError(config.path, f"{WEIGHTS} is damaged or cut short ({error})", _RETRAIN) from error


def _compare(config: MemberConfig, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is not part of {config.architecture}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [
        f"{name} holds {found[name].dtype} where {tensor.dtype} is expected"
        for name, tensor in expected.items()
        if name in found and found[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 1} more differences" if len(problems) > 1 else ""
        raise ZooMemberError(
            config.path,
            f"{WEIGHTS} does not fit {config.architecture} with {len(config.labels)} classes: {problems[0]}{more}",
            f"correct `architecture`, `num_classes` or `model_args` in {CONFIG}",
        )


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
