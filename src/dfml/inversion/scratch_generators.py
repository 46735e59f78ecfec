"""Generators with new random weights, one for every target of a round (CMI, BiDf-MKD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dfml import seeds
from dfml.backbones.image_generator import ImageGenerator, create_generator
from dfml.inversion.engine import Target
from dfml.zoo.pretrained import Preprocessing

if TYPE_CHECKING:
    from dfml.inversion.generator_based import GeneratorConfig


def create_scratch_generators(
    config: GeneratorConfig,
    preprocessing: Preprocessing,
    targets: Sequence[Target],
    *,
    seed: int,
    round_index: int,
    device: torch.device | None,
) -> list[ImageGenerator]:
    """Create one generator for every target; it depends on the seed, the round and the member's name alone."""
    networks = []
    for target in targets:
        generator = seeds.generator(seed, "generator", round_index, target.name)
        drawn = int(torch.randint(2**31, (1,), generator=generator))
        network = create_generator(preprocessing.size, latent=config.latent, width=config.width, seed=drawn)
        networks.append(network.to(device))
    return networks
