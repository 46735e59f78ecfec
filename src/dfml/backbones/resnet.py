"""Few-shot ResNets: ResNet-10 and ResNet-18 for small images, as in the code of PURER and FREE.

Registered with timm as `fewshot_resnet10` and `fewshot_resnet18`; timm's own `resnet18` is another network and is not
replaced.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.backbones.common import FewShotBackbone, initialise_convolutions, refuse_pretrained

__all__ = ["fewshot_resnet10", "fewshot_resnet18"]

_WIDTHS = (64, 128, 256, 512)


class ConvNorm(nn.Sequential):
    """A convolution without bias, followed by batch-norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride)
        self.second = ConvNorm(out_channels, out_channels, 3)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, 1, stride)

    def forward(self, x: Float[Tensor, "images c rows columns"]) -> Float[Tensor, "images channels _rows _columns"]:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class FewShotResNet(FewShotBackbone):
    """ResNet for few-shot learning: its stem is a 3x3 convolution of stride 1 without ReLU and without pooling.

    Args:
        num_classes: Number of outputs of the linear head; 0 for no head.
        depths: Number of basic blocks in each of the four stages of 64, 128, 256 and 512 channels.
        in_chans: Channels of the images.
        global_pool: `avg` (as in the papers) or `max`.
        img_size: Height and width noted in `pretrained_cfg`; the network takes images of any size.

    Raises:
        ValueError: If `global_pool` is neither `avg` nor `max`.
    """

    def __init__(
        self,
        num_classes: int = 5,
        depths: tuple[int, int, int, int] = (1, 1, 1, 1),
        in_chans: int = 3,
        global_pool: str = "avg",
        img_size: int = 32,
    ) -> None:
        super().__init__(global_pool=global_pool, input_size=(in_chans, img_size, img_size), first_conv="stem.conv")
        if not global_pool:
            raise ValueError("`global_pool` must be 'avg' or 'max' for a few-shot ResNet")
        self.stem = ConvNorm(in_chans, _WIDTHS[0], 3)
        blocks: list[nn.Module] = []
        channels = _WIDTHS[0]
        for stage, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True)):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.num_features = channels
        initialise_convolutions(self)
        self.reset_classifier(num_classes)

    def forward_features(
        self, x: Float[Tensor, "images c height width"]
    ) -> Float[Tensor, "images channels rows columns"]:
        """Feature map of the last stage, an eighth of the image's height and width."""
        features: Tensor = self.blocks(self.stem(x))
        return features


def fewshot_resnet10(pretrained: bool = False, **kwargs: Any) -> FewShotResNet:
    """Few-shot ResNet-10: one basic block per stage."""
    return FewShotResNet(depths=(1, 1, 1, 1), **refuse_pretrained("fewshot_resnet10", pretrained, kwargs))


def fewshot_resnet18(pretrained: bool = False, **kwargs: Any) -> FewShotResNet:
    """Few-shot ResNet-18: two basic blocks per stage."""
    return FewShotResNet(depths=(2, 2, 2, 2), **refuse_pretrained("fewshot_resnet18", pretrained, kwargs))
