"""ResNets for CIFAR of He et al. (1512.03385, section 4.2): 6n + 2 layers in three stages of 16, 32 and 64 channels.

Published weights differ in their shortcuts, which strict loading cannot see: option A has no parameters, and there are
several forms of it.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.errors import UsageError

SHORTCUTS = ("A", "A-end", "A-average", "B")
"""Where the number of channels changes: every second pixel and zeros on both sides of the channels; the same with all
zeros after the channels; means of 2 x 2 pixels instead of every second pixel, zeros after; a 1 x 1 convolution."""

_WIDTHS = (16, 32, 64)
_MAX_DEPTH = 1202  # the deepest network of the paper


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.kind = shortcut
        self.stride = stride
        self.added = channels - in_channels
        self.shortcut = nn.Sequential()
        if shortcut == "B" and (stride != 1 or self.added):
            convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "images c rows columns"]) -> Float[Tensor, "images channels _rows _columns"]:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.kind == "B" or not self.added:
            kept: Tensor = self.shortcut(x)
            return kept
        smaller = (
            functional.avg_pool2d(x, self.stride)
            if self.kind == "A-average"
            else x[:, :, :: self.stride, :: self.stride]
        )
        before = self.added // 2 if self.kind == "A" else 0
        return functional.pad(smaller, (0, 0, 0, 0, before, self.added - before))


class CifarResNet(nn.Module):
    """ResNet for small images (1512.03385, section 4.2).

    Args:
        depth: Number of layers, 6n + 2: 20, 32, 44, 56, 110, ...
        num_classes: Number of outputs.
        shortcut: One of `SHORTCUTS`. The paper's is option A.
        in_channels: Channels of the images.

    Raises:
        UsageError: If `depth` or `shortcut` is none of these.
    """

    def __init__(self, depth: int, num_classes: int, *, shortcut: str = "A", in_channels: int = 3) -> None:
        super().__init__()
        if not isinstance(depth, int) or not 8 <= depth <= _MAX_DEPTH or (depth - 2) % 6:
            raise UsageError(
                f"a ResNet for CIFAR has 8, 14, 20, ... (6n + 2) layers, at most {_MAX_DEPTH}, not {depth}"
            )
        if shortcut not in SHORTCUTS:
            raise UsageError(f"the shortcut of a ResNet for CIFAR is one of {', '.join(SHORTCUTS)}, not {shortcut!r}")
        self.conv1 = nn.Conv2d(in_channels, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        channels = _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS, start=1):
            blocks = []
            for position in range((depth - 2) // 6):
                blocks.append(_Block(channels, width, 2 if stage > 1 and position == 0 else 1, shortcut))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)  # type: ignore[operator]
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
