"""`DynamicDataset`: PURER's learnable pixels, from which pseudo-episodes are drawn while they change (papers 1.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml import seeds
from dfml.learners.episode import Episode, episode_labels, sample_episode_indices
from dfml.zoo.pretrained import Preprocessing


class DynamicDataset:
    """Pixels for every class of a zoo, kept in the learner's normalised space.

    The learnable quantity is p ~ N(0, 1); the image that it stands for is `mean + std * p` with the learner's mean and
    standard deviation, so that one learning rate fits every zoo. Nothing is clipped.

    Attributes:
        pixels: The leaf tensor p, classes x images of a class x 3 x size x size.
        preprocessing: The learner's.
    """

    pixels: Float[Tensor, "classes per_class 3 size size"]

    def __init__(
        self, classes: int, per_class: int, preprocessing: Preprocessing, seed: int, device: torch.device
    ) -> None:
        size = preprocessing.size
        draws = [
            torch.randn(per_class, 3, size, size, generator=seeds.generator(seed, "pixels", index))
            for index in range(classes)
        ]
        self.pixels = torch.stack(draws).to(device).requires_grad_()
        self.preprocessing = preprocessing
        self._sizes = torch.full((classes,), per_class)

    def images_of(self, classes: Int64[Tensor, "way"]) -> Float[Tensor, "images 3 size size"]:
        """All images of some classes, class by class; gradients reach the pixels."""
        return self.preprocessing.denormalise(self.pixels[classes].flatten(0, 1))

    def episode(self, way: int, shot: int, query: int, generator: torch.Generator) -> Episode:
        """Draw an episode across members (papers 1.4); gradients reach the pixels of support and query.

        Raises:
            UsageError: If there are too few classes or images.
        """
        classes, support, of_query = sample_episode_indices(self._sizes, way, shot, query, generator)
        rows = classes.to(self.pixels.device)[:, None]
        device = self.pixels.device
        return Episode(
            self.preprocessing.denormalise(self.pixels[rows, support.to(device)].flatten(0, 1)),
            episode_labels(way, shot, device),
            self.preprocessing.denormalise(self.pixels[rows, of_query.to(device)].flatten(0, 1)),
            episode_labels(way, query, device),
        )
