"""Write a network as a zoo member in timm's format, which `timm.create_model("local-dir:...")` reads too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from dfml.files import atomic_folder, save_tensors
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.pretrained import Preprocessing


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
    """Write a member. Its folder appears with all of its files, or not at all.

    Args:
        folder: Path of the member's folder; must not exist.
        network: The network, on any device.
        architecture: Name of the architecture for `dfml.backbones.create_backbone`.
        labels: One name per output.
        preprocessing: The preprocessing that the network was trained with.
        arguments: Arguments of the architecture, such as `img_size`; default none.
        details: Further notes, written under `dfml` in `config.json`; default none.

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
