"""Conv4, the standard small backbone: four blocks of convolution, batch-norm, ReLU and 2x2 max-pooling.

Registered with timm as `conv4` (32 channels, as in MAML, PURER and FREE), `conv4_64` (64 channels, as in ProtoNet,
Snell et al., NeurIPS 2017) and `conv4_pyramid` (32, 64, 128 and 256 channels, a narrower version of the backbone of
R2D2, Bertinetto et al., ICLR 2019: it costs less than `conv4_64` and has four times as many features).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.backbones.common import FewShotBackbone, initialise_convolutions, refuse_pretrained

__all__ = ["conv4", "conv4_64", "conv4_pyramid"]


class ConvBlock(nn.Module):
    """3x3 convolution, batch-norm, 2x2 max-pooling, ReLU; halves the height and width.

    Usually ReLU stands before the pooling. Both are monotonic, so the order changes no value, and ReLU on a quarter of
    the pixels is cheaper.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(
        self, x: Float[Tensor, "images c height width"]
    ) -> Float[Tensor, "images channels half_height half_width"]:
        return functional.relu(functional.max_pool2d(self.norm(self.conv(x)), 2))


class Conv4(FewShotBackbone):
    """Conv4; 29,541 parameters with 32 channels, 5 classes and 32 pixels.

    Args:
        num_classes: Number of outputs of the linear head; 0 for no head.
        channels: Channels of every block, or one number per block.
        img_size: Height and width that the head is built for, at least 16. Not used with `global_pool`.
        in_chans: Channels of the images.
        global_pool: Empty: the head takes the flattened last map, for images of `img_size` only. `max` or `avg`: one
            value per channel, for images of any size.

    Raises:
        ValueError: If `img_size`, `channels` or `global_pool` is out of range.
    """

    def __init__(
        self,
        num_classes: int = 5,
        channels: int | Sequence[int] = 32,
        img_size: int = 32,
        in_chans: int = 3,
        global_pool: str = "",
    ) -> None:
        super().__init__(global_pool=global_pool, input_size=(in_chans, img_size, img_size), first_conv="blocks.0.conv")
        if img_size < 16:
            raise ValueError(f"`img_size` must be at least 16 for four poolings, but is {img_size}")
        widths = [channels] * 4 if isinstance(channels, int) else [*channels]
        if len(widths) != 4:
            raise ValueError(f"`channels` must be one number or four, one per block, but is {channels}")
        self.blocks = nn.Sequential(*(ConvBlock(a, b) for a, b in pairwise([in_chans, *widths])))
        side = 1 if global_pool else img_size // 16
        self.num_features = widths[-1] * side * side
        initialise_convolutions(self)
        self.reset_classifier(num_classes)

    def forward_features(
        self, x: Float[Tensor, "images c height width"]
    ) -> Float[Tensor, "images channels rows columns"]:
        """Feature map of the last block."""
        features: Tensor = self.blocks(x)
        return features


def conv4(pretrained: bool = False, **kwargs: Any) -> Conv4:
    """Conv4 with 32 channels."""
    return Conv4(channels=32, **refuse_pretrained("conv4", pretrained, kwargs))


def conv4_64(pretrained: bool = False, **kwargs: Any) -> Conv4:
    """Conv4 with 64 channels."""
    return Conv4(channels=64, **refuse_pretrained("conv4_64", pretrained, kwargs))


def conv4_pyramid(pretrained: bool = False, **kwargs: Any) -> Conv4:
    """Conv4 with 32, 64, 128 and 256 channels; `channels` replaces them."""
    return Conv4(**{"channels": (32, 64, 128, 256), **refuse_pretrained("conv4_pyramid", pretrained, kwargs)})
