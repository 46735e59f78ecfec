"""`DynamicDataset`: the learnable pixels of PURER, from which episodes are sampled while the pixels change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dfml import seeds
from dfml.learners.episode import Episode, episode_labels, sample_episode_indices
from dfml.zoo.pretrained import Preprocessing


class DynamicDataset:
    """Learnable images of every class of a zoo (PURER, dynamic dataset).

    The learnable pixels p start from N(0, 1); the image is `mean + std * p` with the learner's mean and standard
    deviation, so that one learning rate fits every zoo. Images are not clipped.

    Args:
        classes: Number of classes of the zoo.
        per_class: Number of images per class.
        preprocessing: Image size, mean and standard deviation of the learner.
        seed: Seed of the initial pixels; they do not depend on the number of classes.
        device: Device of the pixels.
        active: Classes that episodes are sampled from, in ascending order; None: all.

    Attributes:
        pixels: Normalised pixels p, not in [0, 1]; a leaf tensor, to be optimised.
        preprocessing: As given.
        active: As given; all classes by default.
    """

    pixels: Float[Tensor, "classes per_class 3 size size"]

    def __init__(
        self,
        classes: int,
        per_class: int,
        preprocessing: Preprocessing,
        seed: int,
        device: torch.device,
        active: Sequence[int] | None = None,
    ) -> None:
        size = preprocessing.size
        noise = [
            torch.randn(per_class, 3, size, size, generator=seeds.generator(seed, "pixels", index))
            for index in range(classes)
        ]
        self.pixels = torch.stack(noise).to(device).requires_grad_()
        self.preprocessing = preprocessing
        self.active = list(range(classes) if active is None else active)
        self._counts = torch.full((len(self.active),), per_class)

    def images(self, class_index: int) -> Float[Tensor, "per_class 3 size size"]:
        """All images of one class, not clipped; gradients reach the pixels."""
        return self.preprocessing.denormalise(self.pixels[class_index])

    def episode(self, way: int, shot: int, query: int, generator: torch.Generator) -> Episode:
        """Sample an episode, whose classes may come from different members; gradients reach the pixels.

        Args:
            way: Number of classes.
            shot: Number of support images per class.
            query: Number of query images per class.
            generator: Random generator on the CPU.

        Raises:
            UsageError: If there are too few classes or images.
        """
        chosen, support, queries = sample_episode_indices(self._counts, way, shot, query, generator)
        device = self.pixels.device
        rows = torch.tensor(self.active)[chosen].to(device)[:, None]
        return Episode(
            self.preprocessing.denormalise(self.pixels[rows, support.to(device)].flatten(0, 1)),
            episode_labels(way, shot, device),
            self.preprocessing.denormalise(self.pixels[rows, queries.to(device)].flatten(0, 1)),
            episode_labels(way, query, device),
        )
