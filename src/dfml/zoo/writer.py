"""From a network in memory to a zoo member on disk, in the format that timm reads as `local-dir:`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from dfml.files import atomic_folder, save_tensors
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.readers import CONFIG, WEIGHTS


def write_member(
    folder: Path,
    network: nn.Module,
    *,
    architecture: str,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    arguments: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Write a member; its folder appears at once and whole, or not at all.

    Args:
        folder: The member's folder; must not exist.
        network: Its state dict is written, contiguous and on the CPU.
        architecture: The name that `dfml.backbones.create_backbone` builds the network from.
        labels: One name an output.
        preprocessing: What the network was trained with.
        arguments: Of the architecture.
        details: Anything worth keeping, under `dfml` in the `config.json`.

    Raises:
        OSError: If the folder cannot be written.
    """
    config = {
        "architecture": architecture,
        "num_classes": len(labels),
        "num_features": int(network.num_features),  # type: ignore[arg-type]
        "label_names": list(labels),
        "model_args": arguments or {},
        "pretrained_cfg": {
            **_network_config(network),
            "input_size": [3, preprocessing.size, preprocessing.size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(labels),
        },
        "dfml": details or {},
    }
    with atomic_folder(folder) as unfinished:
        save_tensors(network.state_dict(), unfinished / WEIGHTS)
        (unfinished / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _network_config(network: nn.Module) -> dict[str, Any]:
    known = getattr(network, "pretrained_cfg", None) or {}
    return {key: known[key] for key in ("interpolation", "crop_pct", "first_conv", "classifier") if key in known}
