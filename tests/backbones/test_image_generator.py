from __future__ import annotations

import pytest
import torch
from torch import nn

from dfml.backbones.image_generator import ImageGenerator, create_generator


@pytest.mark.parametrize("size", [8, 15, 16, 18, 33])
def test_images_have_the_requested_size_and_lie_in_zero_to_one(size: int) -> None:
    images = create_generator(size, latent=6, width=4, seed=0)(3 * torch.randn(5, 6))
    assert images.shape == (5, 3, size, size)
    assert torch.all((images >= 0) & (images <= 1))


def test_it_is_the_generator_of_free() -> None:
    """The generator of FREE (Wei et al., CVPR 2024) has about 2.3 million weights at 32 pixels, 14.7 million at 84."""
    for size, millions in ((32, 2.3), (84, 14.7)):
        with torch.device("meta"):
            network = ImageGenerator(size)
        assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    kinds = [type(layer) for layer in network.body]
    block = [nn.Upsample, nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert kinds == [nn.BatchNorm2d, *block, *block, nn.Conv2d, nn.Sigmoid]


def test_weights_come_from_the_seed_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (create_generator(8, latent=4, width=4, seed=seed).project.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_are_a_function_of_weights_and_latents_alone() -> None:
    network = create_generator(8, latent=4, width=4, seed=0)
    latents = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    first = network(latents)
    network(10 * latents)
    network.eval()
    assert torch.equal(network(latents), first)
    assert dict(network.named_buffers()) == {}
    assert not torch.allclose(network(latents[:3]), first[:3])  # the batch normalises itself
