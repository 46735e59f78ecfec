"""Base of dfml's own backbones: the part of timm's model interface that dfml uses."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_POOLS = ("", "avg", "max")


class FewShotBackbone(nn.Module):
    """A backbone with a linear head and timm's `forward_features`, `forward_head` and `reset_classifier`.

    Subclasses set `num_features`, implement `forward_features`, and call `reset_classifier` to make the head.

    Args:
        global_pool: Pooling before the head: `avg`, `max`, or empty for none (the head takes the flattened map).
        input_size: Channels, height and width of the images, for `pretrained_cfg`.
        first_conv: Name of the first convolution, for `pretrained_cfg`.
    """

    num_features: int
    num_classes: int
    head: nn.Module

    def __init__(self, *, global_pool: str, input_size: tuple[int, int, int], first_conv: str) -> None:
        super().__init__()
        if global_pool not in _POOLS:
            raise ValueError(f"`global_pool` must be one of {_POOLS}, but is {global_pool!r}")
        self.global_pool = global_pool
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": input_size,
            "first_conv": first_conv,
            "classifier": "head",
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        }
        self.default_cfg = self.pretrained_cfg

    def get_classifier(self) -> nn.Module:
        """Return the linear head; an identity if the backbone has no head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0 removes it.

        Raises:
            ValueError: If `global_pool` asks for another pooling than the backbone was built with.
        """
        if global_pool is not None and global_pool != self.global_pool:
            raise ValueError(f"this backbone pools with {self.global_pool!r}; build it anew for {global_pool!r}")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(
        self, x: Float[Tensor, "images c height width"]
    ) -> Float[Tensor, "images channels rows columns"]:
        """Last feature map, before pooling."""
        raise TypeError(f"{type(self).__name__} does not implement forward_features")

    def forward_head(
        self, x: Float[Tensor, "images channels rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "images outputs"]:
        """Pool, flatten (channel, row, column) and classify; with `pre_logits`, return the head's inputs."""
        if self.global_pool == "avg":
            x = x.mean(dim=(2, 3))
        elif self.global_pool == "max":
            x = functional.adaptive_max_pool2d(x, 1)
        x = x.flatten(1)
        return x if pre_logits else self.head(x)

    def forward(self, x: Float[Tensor, "images c height width"]) -> Float[Tensor, "images outputs"]:
        """Logits; the head's inputs if there is no head."""
        return self.forward_head(self.forward_features(x))


def initialise_convolutions(module: nn.Module) -> None:
    """Sample every convolution's weights from N(0, 2 / (k k out)), and set its biases to zero.

    The initialisation of He et al. 2015 by fan-out, which the code of PURER and FREE uses. It draws from torch's global
    generator as all torch modules do; `create_backbone` seeds and restores that generator.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


def refuse_pretrained(name: str, pretrained: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove the arguments that timm's `create_model` passes to every model and that dfml's backbones do not take.

    Raises:
        ValueError: If `pretrained` is set: there are no weights to download.
    """
    if pretrained:
        raise ValueError(f"{name} has no pre-trained weights to download; load a zoo member instead")
    housekeeping = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in arguments.items() if key not in housekeeping}
