"""The generator of FREE, CMI and FastDFKD: latent vectors -> images (papers 2.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """A small deconvolutional network with a sigmoid at its end.

    Its batch-norm layers always use the batch's own statistics and store none: what it draws is a function of weights
    and latents alone.

    Args:
        size: Pixels a side of the images.
        latent: Length of a latent vector.
        width: Channels of the first maps; the papers have 128. The last hidden map has half as many.
    """

    def __init__(self, size: int, *, latent: int = 256, width: int = 128) -> None:
        super().__init__()
        self.size, self.latent = size, latent
        start = -(-size // 4)  # rounded up: what is too much is cut off at the end
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
        """Images in [0, 1]."""
        images: Tensor = self.body(self.start(self.project(latents)))
        return images[..., : self.size, : self.size]


def create_generator(size: int, *, latent: int = 256, width: int = 128, seed: int) -> ImageGenerator:
    """An untrained generator with torch's usual initial weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Weights in this layout make the maps follow: a third faster on a CPU.
        return ImageGenerator(size, latent=latent, width=width).to(memory_format=torch.channels_last)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)
