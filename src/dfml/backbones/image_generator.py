"""The image generator of CMI, FastDFKD and FREE (its FIVE module): latent vectors -> images."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """A small network of upsampling and convolutions with a final sigmoid (Fang et al., IJCAI 2021, 2105.08584).

    Its batch-norm layers always use the statistics of the batch and have no running statistics, so the images are a
    function of the weights and the latent vectors alone.

    Args:
        size: Height and width of the images, in pixels.
        latent: Length of a latent vector.
        width: Channels of the first maps, 128 in the papers; the last hidden map has half as many.
    """

    def __init__(self, size: int, *, latent: int = 256, width: int = 128) -> None:
        super().__init__()
        self.size, self.latent = size, latent
        start = -(-size // 4)  # rounded up: `forward` crops what exceeds `size`
        self.project = nn.Linear(latent, width * start * start)
        self.start = nn.Unflatten(1, (width, start, start))
        self.body = nn.Sequential(
            _norm(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, max(width // 2, 1), 3, padding=1, bias=False),
            _norm(max(width // 2, 1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(max(width // 2, 1), 3, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latents: Float[Tensor, "images latent"]) -> Float[Tensor, "images 3 size size"]:
        """Render images in [0, 1] from latent vectors."""
        images: Tensor = self.body(self.start(self.project(latents)))
        return images[..., : self.size, : self.size]


def create_generator(size: int, *, latent: int = 256, width: int = 128, seed: int) -> ImageGenerator:
    """Build an untrained generator with torch's default initial weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Feature maps take over the weights' memory layout; channels-last is a third faster on a CPU.
        return ImageGenerator(size, latent=latent, width=width).to(memory_format=torch.channels_last)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)
