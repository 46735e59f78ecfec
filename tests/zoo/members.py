"""Tiny members on disk: Conv4 at 16 pixels, untrained but with batch-norm statistics of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfml.backbones import create_backbone
from dfml.seeds import generator
from dfml.zoo import Preprocessing
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.writer import write_member

SIZE = 16


def warmed_up(network: nn.Module, seed: int, size: int = SIZE) -> nn.Module:
    """The network after one pass over noise in training mode: its stored statistics are not the initial ones."""
    network.train()(torch.rand(8, 3, size, size, generator=generator(seed, "warm up")))
    return network.eval()


class ZooMaker:
    """Writes members into a folder and damages them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir()

    def member(
        self,
        name: str = "member-000",
        labels: tuple[str, ...] = ("ant", "bee", "cat"),
        *,
        architecture: str = "conv4",
        arguments: dict[str, Any] | None = None,
        seed: int = 0,
        size: int = SIZE,
        details: dict[str, Any] | None = None,
    ) -> tuple[Path, nn.Module]:
        """A member's folder, and the network that was written to it."""
        arguments = {"img_size": size} if arguments is None else arguments
        network = warmed_up(create_backbone(architecture, len(labels), seed=seed, **arguments), seed, size)
        write_member(
            self.path / name,
            network,
            architecture=architecture,
            labels=labels,
            preprocessing=Preprocessing(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
            arguments=arguments,
            details=details,
        )
        return self.path / name, network


def edit_config(folder: Path, **changes: Any) -> None:
    """Replace fields of a member's configuration; a value of None removes the field."""
    config = {**json.loads((folder / CONFIG).read_text()), **changes}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Replace a member's weights."""
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(change(weights), folder / WEIGHTS)
