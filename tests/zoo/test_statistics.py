"""Statistics of batch-norm inputs, against plain torch in double precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml.zoo import Preprocessing, PretrainedClassifier
from dfml.zoo.statistics import (
    batch_norm_layers,
    channel_moments,
    layers_without_variance,
    record_means,
    record_statistics,
)
from tests.factories import PREPROCESSING, SIZE, member


def classifier(architecture: str = "conv4", **arguments: object) -> PretrainedClassifier:
    preprocessing = replace(PREPROCESSING, size=32)
    return member(0, preprocessing=preprocessing, architecture=architecture, arguments=arguments).double()


def plain_statistics(network: nn.Module, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of every batch-norm layer's input, by `torch.var_mean`."""
    statistics: list[tuple[Tensor, Tensor]] = []

    def measure(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(arguments[0], (0, 2, 3), correction=0)
        statistics.append((mean, variance))

    handles = [layer.register_forward_pre_hook(measure) for layer in network.modules() if hasattr(layer, "running_var")]
    network(inputs)
    for handle in handles:
        handle.remove()
    return statistics


@pytest.mark.parametrize(
    ("architecture", "arguments", "layers"),
    [("conv4", {"img_size": 32}, 4), ("fewshot_resnet10", {}, 12), ("test_efficientnet", {}, 13)],
)
def test_statistics_are_those_of_plain_torch(architecture: str, arguments: dict[str, object], layers: int) -> None:
    member = classifier(architecture, **arguments)
    images = torch.rand(5, 3, 32, 32, dtype=torch.double)
    logits, statistics = member.logits_and_statistics(images)
    assert torch.equal(logits, member.logits(images))
    expected = plain_statistics(member.network, member.preprocessing.normalise(images))
    assert len(statistics) == len(expected) == member.num_batch_norms == layers
    for found, (mean, variance) in zip(statistics, expected, strict=True):
        torch.testing.assert_close(found.mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.variance, variance, rtol=1e-10, atol=1e-12)
    stored = [(layer.running_mean, layer.running_var) for layer in batch_norm_layers(member.network)]
    assert len(stored) == layers
    for found in statistics:
        assert any(found.running_mean is mean and found.running_variance is variance for mean, variance in stored)


def test_gradients_through_the_statistics_are_those_of_plain_torch() -> None:
    member = classifier(img_size=32)
    images = torch.rand(4, 3, 32, 32, dtype=torch.double, requires_grad=True)
    logits, statistics = member.logits_and_statistics(images)
    loss = logits.square().sum() + sum((s.mean.norm() + (s.variance - s.running_variance).norm()) for s in statistics)
    (found,) = torch.autograd.grad(loss, images)
    inputs = member.preprocessing.normalise(images)
    layers = batch_norm_layers(member.network)
    plain = member.network(inputs).square().sum()
    for (mean, variance), layer in zip(plain_statistics(member.network, inputs), layers, strict=True):
        plain = plain + mean.norm() + (variance - layer.running_var).norm()
    (expected,) = torch.autograd.grad(plain, images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_no_hook_outlives_the_recording_even_when_it_fails() -> None:
    member = classifier(img_size=32)
    member.logits_and_statistics(torch.rand(2, 3, 32, 32, dtype=torch.double))
    with pytest.raises(RuntimeError), record_statistics(member.network):
        member.network(torch.rand(2, 3, SIZE, SIZE, dtype=torch.double))  # the head does not fit
    with pytest.raises(RuntimeError), record_means(member.network):
        member.network(torch.rand(2, 3, SIZE, SIZE, dtype=torch.double))
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in member.modules())


def test_means_of_every_image_alone_average_to_those_of_the_batch() -> None:
    member = classifier(img_size=32)
    images = torch.rand(5, 3, 32, 32, dtype=torch.double)
    _, statistics = member.logits_and_statistics(images)
    features = member.layer_means(images)
    assert features.shape == (5, sum(len(layer.mean) for layer in statistics))
    torch.testing.assert_close(features.mean(0), torch.cat([layer.mean for layer in statistics]))
    torch.testing.assert_close(member.layer_means(images[2:3]), features[2:3])


def test_means_are_of_images_at_the_members_size_and_differentiable() -> None:
    member = classifier(img_size=32)
    images = torch.rand(2, 3, 64, 64, dtype=torch.double, requires_grad=True)
    resized = nn.functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    features = member.layer_means(images)
    torch.testing.assert_close(features, member.layer_means(resized))
    (gradient,) = torch.autograd.grad(features[0].sum(), images)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_a_network_without_batch_norm_has_no_statistics() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    member = PretrainedClassifier(network, ("a", "b"), Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert member.num_batch_norms == 0
    images = torch.rand(2, 3, 8, 8)
    assert member.logits_and_statistics(images)[1] == []
    assert torch.equal(member.layer_means(images), member.logits(images))


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.booleans(),
    st.integers(0, 100),
)
def test_channel_moments_have_right_values_and_gradients(
    shape: tuple[int, int, int, int], channels_last: bool, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws, dtype=torch.double) * 2 + 1
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    mean, variance = channel_moments(x)
    expected_variance, expected_mean = torch.var_mean(x, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(channel_moments, (x.requires_grad_(),))


def test_channel_moments_are_batched_by_vmap_as_by_a_loop() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, 5, 2, generator=draws, dtype=torch.double)

    def loss(x: Tensor) -> Tensor:
        mean, variance = channel_moments(x)
        return (mean * torch.arange(3)).sum() + variance.square().sum()

    batched = torch.vmap(torch.func.grad_and_value(loss))(x)
    for index in range(6):
        gradient, value = torch.func.grad_and_value(loss)(x[index])
        torch.testing.assert_close(batched[0][index], gradient)
        torch.testing.assert_close(batched[1][index], value)


def test_single_precision_keeps_a_small_variance_far_from_zero() -> None:
    draws = torch.Generator().manual_seed(0)
    x = 100 + 0.01 * torch.randn(16, 3, 8, 8, generator=draws)
    _, variance = channel_moments(x)
    expected = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-3, atol=0)


def test_layers_without_variance_are_those_whose_running_variances_are_all_zero() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    for layer, zeros in zip(network, (0, 1, 2), strict=True):
        assert isinstance(layer, nn.BatchNorm2d)
        assert isinstance(layer.running_var, torch.Tensor)
        layer.running_var[:zeros] = 0.0
    assert layers_without_variance(network) == ["2"]
