"""Statistics of batch-norm layers' inputs: mean and variance of a batch beside the running mean and variance.

The running statistics summarise the training images. Inversion losses, momentum and calibration targets are computed
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import BatchNorm2d

Measurement = TypeVar("Measurement")


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one batch-norm layer's input, as compared by DeepInversion (Yin et al., CVPR 2020, 1912.08795).

    Attributes:
        mean: Mean of each channel over the batch and all pixels; differentiable.
        variance: Biased variance of each channel over the batch and all pixels; differentiable.
        running_mean: The layer's running mean.
        running_variance: The layer's running variance.
        eps: Number that the layer adds to a variance before it divides by its square root.
    """

    mean: Float[Tensor, "*members channels"]
    variance: Float[Tensor, "*members channels"]
    running_mean: Float[Tensor, "*members channels"]
    running_variance: Float[Tensor, "*members channels"]
    eps: float = 1e-5

    @property
    def running_deviation(self) -> Float[Tensor, "*members channels"]:
        """Standard deviation by which the layer divides each channel."""
        return (self.running_variance + self.eps).sqrt()


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of every channel; on a CPU four times as fast as `torch.var_mean` and its backward.

    Channel sums are matrix products over a (pixels, channels) view, which needs no copy in channels-last memory, and
    the backward pass is one fused a + b x. Deviations are taken from the first image's mean, so that the one-pass
    variance keeps its precision however far the batch's mean is from zero. First derivatives only: nothing
    differentiates an inversion loss twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centre = x[:1].mean(dim=(0, 2, 3))
        pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) - centre
        total = pixels.new_ones(1, len(pixels))
        mean = (total @ pixels)[0] / len(pixels)
        variance = (total @ (pixels * pixels))[0] / len(pixels) - mean * mean
        mean = mean + centre
        return mean, variance, mean.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        (x,) = inputs
        _, _, mean = output
        ctx.mark_non_differentiable(mean)
        ctx.save_for_backward(x, mean)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mean_gradient, variance_gradient, _ = gradients
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = variance_gradient * (2.0 / count)
        offset = mean_gradient / count - slope * mean
        return torch.addcmul(offset[:, None, None], x, slope[:, None, None])


def channel_moments(
    x: Float[Tensor, "images channels rows columns"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Mean and biased variance of every channel of a feature map; differentiable once."""
    mean, variance, _ = _ChannelMoments.apply(x)
    return mean, variance


def record_statistics(network: nn.Module) -> AbstractContextManager[list[LayerStatistics]]:
    """Context whose list gets one entry per batch-norm layer in every forward pass of `network`, in order of use.

    The hooks are removed when the context ends.
    """

    def measure(layer: nn.Module, images: Tensor) -> LayerStatistics:
        running_mean, running_variance = layer.running_mean, layer.running_var
        assert isinstance(running_mean, Tensor)
        assert isinstance(running_variance, Tensor)
        eps = float(layer.eps)  # type: ignore[arg-type]
        return LayerStatistics(*channel_moments(images), running_mean, running_variance, eps)

    return _record(network, measure)


def record_means(network: nn.Module) -> AbstractContextManager[list[Float[Tensor, "images channels"]]]:
    """Context as `record_statistics`; an entry has the mean of each channel over the pixels of each image."""
    return _record(network, lambda _, images: images.mean(dim=(2, 3)))


@contextmanager
def _record(network: nn.Module, measure: Callable[[nn.Module, Tensor], Measurement]) -> Iterator[list[Measurement]]:
    measurements: list[Measurement] = []

    def append(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        measurements.append(measure(layer, inputs[0]))

    handles = [layer.register_forward_pre_hook(append) for layer in batch_norm_layers(network)]
    try:
        yield measurements
    finally:
        for handle in handles:
            handle.remove()


def batch_norm_layers(network: nn.Module) -> list[nn.Module]:
    """All `BatchNorm2d` layers with running statistics (also timm's fused variants), in order of definition."""
    return [m for m in network.modules() if isinstance(m, BatchNorm2d) and m.running_mean is not None]


def layers_without_variance(network: nn.Module) -> list[str]:
    """Names of the batch-norm layers whose running variances are all zero, so that their outputs are meaningless."""
    names = {layer: name for name, layer in network.named_modules()}
    variances = {names[layer]: layer.running_var for layer in batch_norm_layers(network)}
    return [name for name, value in variances.items() if isinstance(value, Tensor) and not bool((value > 0).any())]
