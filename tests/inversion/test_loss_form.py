"""The form `means` of the loss does not depend on the size of network, batch and images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfml.inversion.term_values import mean_total_variation, standardised_batch_norm_distance
from dfml.zoo.statistics import LayerStatistics


def layer(channels: int, scale: float, offset: float = 1.0) -> LayerStatistics:
    """Statistics that are `offset` running deviations off in the mean and a third too large in the deviation."""
    deviation = torch.full((channels,), scale)
    return LayerStatistics(
        mean=offset * deviation,
        variance=(4.0 / 3.0 * deviation).square(),
        running_mean=torch.zeros(channels),
        running_variance=deviation.square(),
        eps=0.0,
    )


@pytest.mark.parametrize("channels", [3, 200])
@pytest.mark.parametrize("depth", [1, 50])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_distance_of_statistics_does_not_grow_with_depth_channels_or_scale(
    channels: int, depth: int, scale: float
) -> None:
    distance = standardised_batch_norm_distance([layer(channels, scale)] * depth)
    assert float(distance) == pytest.approx(1.0 + 1.0 / 9.0, rel=1e-4)


def test_a_channel_without_variance_has_a_finite_distance_and_gradient() -> None:
    """The layer divides by the square root of its eps, and so does the distance."""
    mean = torch.full((4,), 0.01, requires_grad=True)
    variance = torch.zeros(4, requires_grad=True)
    statistics = LayerStatistics(mean, variance, torch.zeros(4), torch.zeros(4), eps=1e-4)
    distance = standardised_batch_norm_distance([statistics])
    assert distance.item() == pytest.approx(1.0, rel=1e-4)  # 0.01 is one unit of sqrt(1e-4)
    gradients = torch.autograd.grad(distance, [mean, variance])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_the_first_layer_has_a_factor() -> None:
    layers = [layer(3, 1.0), layer(3, 1.0, offset=2.0)]
    first, second = (float(standardised_batch_norm_distance([each])) for each in layers)
    assert float(standardised_batch_norm_distance(layers, 4.0)) == pytest.approx((4.0 * first + second) / 2.0)


def test_total_variation_is_a_mean_over_neighbours() -> None:
    ramp = torch.arange(8.0).expand(5, 3, 8, 8)  # neighbours differ by 1 along rows and by 0 along columns
    assert float(mean_total_variation(ramp)) == pytest.approx(0.5)

    def tiled(images: Tensor) -> Tensor:
        return images.repeat(4, 1, 1, 1)

    noise = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(mean_total_variation(tiled(noise)), mean_total_variation(noise))
