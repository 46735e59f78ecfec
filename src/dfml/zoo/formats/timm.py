"""timm's format: a folder with `config.json` and `model.safetensors`, as `timm.create_model("local-dir:...")` reads it.

Nothing in the folder is executed. The network is built from the vetted architecture and arguments without memory for
its weights, compared with the weight file, and only then loaded, strictly. (timm's own `pretrained=True` drops a head
of another size and keeps a random one.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfml.errors import DfmlError, ZooMemberError
from dfml.zoo.bounds import check_arguments
from dfml.zoo.formats import CONFIG, WEIGHTS, MemberConfig
from dfml.zoo.member_files import RESTORE, parse_json, read_json, read_safetensors
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.vetting import MAX_CLASSES, input_is_usable, load_strictly

# Arguments of `create_backbone` that do not come from `model_args`.
_RESERVED = frozenset({"architecture", "num_classes", "seed"})


class TimmFormat:
    """Members of any architecture in timm's registry, dfml's own backbones included."""

    name = "timm"

    def recognises(self, path: Path) -> bool:
        """Whether a folder's `config.json` names an `architecture`."""
        try:
            config = parse_json(path / CONFIG)
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(config, dict) and isinstance(config.get("architecture"), str)

    def read_config(self, path: Path) -> MemberConfig:
        """Read and check `config.json`.

        Raises:
            ZooMemberError: If the file is missing, is not JSON, or lacks or contradicts what a classifier needs.
        """
        config = read_json(path, CONFIG)
        if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
            raise ZooMemberError(
                path,
                f"expected `architecture` (a timm name) in {CONFIG}",
                "add it as timm's `local-dir:` format has it",
            )
        pretrained = config.get("pretrained_cfg") or {}
        arguments, details = config.get("model_args") or {}, config.get("dfml") or {}
        if not all(isinstance(part, dict) for part in (pretrained, arguments, details)):
            raise ZooMemberError(
                path, f"`pretrained_cfg`, `model_args` and `dfml` in {CONFIG} must be objects", RESTORE
            )
        check_arguments(path, arguments, f"`model_args` in {CONFIG}")
        return MemberConfig(
            path=path,
            format=self.name,
            architecture=config["architecture"],
            labels=_labels(path, config, pretrained),
            preprocessing=_preprocessing(path, pretrained),
            arguments=arguments,
            details=details,
            weights=path / WEIGHTS,
        )

    def load(self, config: MemberConfig) -> nn.Module:
        """Build the architecture and load `model.safetensors` into it.

        Raises:
            ZooMemberError: If the architecture is unknown, or the weight file is missing, truncated, or of another
                network.
        """
        fix = f"correct `architecture`, `num_classes` or `model_args` in {CONFIG}"
        reserved = sorted(_RESERVED & config.arguments.keys())
        if reserved:
            raise ZooMemberError(
                config.path,
                f"`model_args` in {CONFIG} may not hold {', '.join(reserved)}",
                "remove them from `model_args`",
            )
        return load_strictly(
            config,
            lambda device: _build(config, device),
            lambda: read_safetensors(config.path, config.weight_file),
            fix,
        )


FORMAT = TimmFormat()


def _labels(folder: Path, config: dict[str, Any], pretrained: dict[str, Any]) -> tuple[str, ...]:
    count = config.get("num_classes", pretrained.get("num_classes"))
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_CLASSES:
        raise ZooMemberError(
            folder, f"expected `num_classes` from 1 to {MAX_CLASSES} in {CONFIG}, found {count!r}", "correct it"
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
        usable = channels == 3 and height == width and input_is_usable(height, mean, std)
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:
        found = {key: pretrained.get(key) for key in ("input_size", "mean", "std")}
        raise ZooMemberError(
            folder,
            f"expected `input_size` [3, size, size], three values of `mean`, three of `std` in `pretrained_cfg`, "
            f"found {found}",
            "state what the classifier was trained with; wrong values would silently spoil its predictions",
        )
    return Preprocessing(int(height), mean, std)  # type: ignore[arg-type]


def _build(config: MemberConfig, device: str) -> nn.Module:
    from dfml.backbones import create_backbone

    try:
        with torch.device(device):
            return create_backbone(config.architecture, len(config.labels), **config.arguments)
    except DfmlError as error:
        raise ZooMemberError(config.path, str(error), f"correct `architecture` or `model_args` in {CONFIG}") from error
