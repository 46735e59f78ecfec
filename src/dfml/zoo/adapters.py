"""Wrappers that give other people's networks one interface: square images of three channels in, logits out.

Images are normalised before they reach a network (`Preprocessing`), so the wrappers see normalised values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.errors import ConfigError

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601, as Pillow converts to mode `L`)."""

OUTPUTS = ("logits", "logit", "softmax", "log_softmax", "sigmoid")
"""What a network may return: one logit per class; one logit for the second of two classes; probabilities; their
logarithms; the probability of the second of two classes."""


class InputAdapter(nn.Module):
    """Converts normalised square images of three channels to what a network takes.

    One channel is exact where the three means are equal and so are the three standard deviations: the weights of the
    channels sum to 1, so that the grey image is normalised as the colours were.

    Args:
        network: The network.
        size: Height and width of its input; None where it is square.
        channels: 3, or 1 for grey images.
        channels_last: Whether it takes images as (height, width, channels).

    Raises:
        ConfigError: If `channels` is neither 1 nor 3.
    """

    weights: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ConfigError(f"expected a network with 1 or 3 input channels, found {channels}")
        self.network = network
        self.size = size
        self.channels = channels
        self.channels_last = channels_last
        self.register_buffer("weights", torch.tensor(LUMINANCE).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images ..."]:
        """The network's output."""
        if self.channels == 1:
            x = (x * self.weights).sum(dim=1, keepdim=True)
        if self.size is not None and self.size != x.shape[2:]:
            x = functional.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        output: Tensor = self.network(x.contiguous())
        return output


class OutputAdapter(nn.Module):
    """Converts what a network returns to logits whose softmax are its class probabilities.

    Args:
        network: The network.
        output: One of `OUTPUTS`.

    Raises:
        ConfigError: If `output` is none of them.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ConfigError(f"expected an output that is one of {', '.join(OUTPUTS)}, found {output!r}")
        self.network = network
        self.output = output

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images classes"]:
        """Logits.

        Raises:
            ValueError: If the network returns anything but one row of numbers per image, or, for a single logit or
                probability, more than one number per image.
        """
        found = self.network(x)
        if not isinstance(found, Tensor):
            raise ValueError(f"the network returns a {type(found).__name__}, expected one tensor")
        single = self.output in ("logit", "sigmoid")
        if single and found.ndim == 1:
            found = found[:, None]
        if found.ndim > 2 and found.numel() == found.shape[0] * found.shape[1]:
            found = found.flatten(1)
        if found.ndim != 2 or len(found) != len(x) or (single and found.shape[1] != 1):
            expected = "(images, 1)" if single else "(images, classes)"
            raise ValueError(f"the network returns a tensor of shape {tuple(found.shape)}, expected {expected}")
        if self.output == "softmax":
            return found.clamp_min(torch.finfo(found.dtype).tiny).log()
        if self.output == "sigmoid":
            found = torch.logit(found, eps=torch.finfo(found.dtype).eps)
        return torch.cat([torch.zeros_like(found), found], dim=1) if single else found


class RowMajor(nn.Module):
    """Keeps a network's weights and input contiguous, for code of other people that uses `view`.

    `PretrainedClassifier` converts weights to channels-last memory, in which `view` of a feature map fails.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowMajor:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.data.contiguous()
        return self

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images ..."]:
        """The network's output for contiguous images."""
        output: Tensor = self.network(x.contiguous())
        return output


def adapt_network(
    network: nn.Module,
    *,
    outputs: str = "logits",
    size: tuple[int, int] | None = None,
    channels: int = 3,
    channels_last: bool = False,
) -> nn.Module:
    """Wrap a network as far as it needs it: a network that takes square colour images and returns logits stays bare.

    Args:
        network: The network.
        outputs: One of `OUTPUTS`.
        size: See `InputAdapter`.
        channels: See `InputAdapter`.
        channels_last: See `InputAdapter`.

    Raises:
        ConfigError: See `InputAdapter` and `OutputAdapter`.
    """
    if size is not None or channels != 3 or channels_last:
        network = InputAdapter(network, size=size, channels=channels, channels_last=channels_last)
    return network if outputs == "logits" else OutputAdapter(network, outputs)
