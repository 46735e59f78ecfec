"""TorchScript files (`torch.jit.save`): refused unless the user pins them in `zoo.yaml`."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from dfml.zoo.foreign_networks import WithoutModes
from dfml.zoo.pinned_code import PinnedCodeFormat


def _open(content: io.BytesIO) -> nn.Module:
    load: Any = torch.jit.load  # without annotations in torch
    network: nn.Module = load(content, map_location="cpu")
    network.eval()
    return WithoutModes(network)


FORMAT = PinnedCodeFormat("torchscript", "TorchScript", _open)
