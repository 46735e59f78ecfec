"""`.pt2` files (`torch.export.save`): refused unless the user pins them in `zoo.yaml`."""

from __future__ import annotations

import io

import torch
from torch import nn

from dfml.zoo.foreign_networks import WithoutModes
from dfml.zoo.pinned_code import PinnedCodeFormat


def _open(content: io.BytesIO) -> nn.Module:
    return WithoutModes(torch.export.load(content).module())


FORMAT = PinnedCodeFormat("pt2", ".pt2", _open)
