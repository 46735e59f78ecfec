"""What networks of other people's graphs and programs need before they can be members: any batch, and gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ForeignNetworkError(Exception):
    """A network takes no images as it should, or passes no gradient to them."""


class OneByOne(nn.Module):
    """A network that takes exactly one image, applied to each image of a batch.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of all images."""
        return torch.cat([self.network(inputs[index : index + 1]) for index in range(len(inputs))])


class WithoutModes(nn.Module):
    """A network that cannot be put into training or evaluation mode, such as a program of `torch.export`.

    Args:
        network: The network, as it is to be used.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def train(self, mode: bool = True) -> WithoutModes:
        """Leave the network as it is."""
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output."""
        output: Tensor = self.network(inputs)
        return output


def rows(output: object, images: int) -> Tensor:
    """An output as one row of numbers per image.

    Raises:
        ForeignNetworkError: If it is no tensor, or has another number of rows.
    """
    if not isinstance(output, Tensor) or output.ndim < 1 or len(output) != images:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ForeignNetworkError(f"its output for {images} images has {found}, expected one row per image")
    return output.reshape(images, -1)


def require_gradient(network: nn.Module, images: Tensor) -> Tensor:
    """Check that gradients reach the images.

    Args:
        network: The network.
        images: Normalised images.

    Returns:
        The outputs, one row per image, without gradients.

    Raises:
        ForeignNetworkError: If none do, they are all zero, or some are not finite.
    """
    images = images.clone().requires_grad_(True)
    found = rows(network(images), len(images))
    if not found.requires_grad:
        raise ForeignNetworkError("no gradient reaches the images")
    weights = torch.linspace(1.0, 2.0, found.numel(), dtype=found.dtype).reshape(found.shape)
    (gradient,) = torch.autograd.grad((found * weights).sum(), images, allow_unused=True)
    if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise ForeignNetworkError("no usable gradient reaches the images")
    return found.detach()
