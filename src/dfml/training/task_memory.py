"""`TaskMemory`: the newest images of every class of a zoo, from which tasks across members are drawn (papers 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import UsageError
from dfml.images import to_bytes, to_float
from dfml.learners.episode import Episode, episode_labels, sample_episode_indices


class TaskMemory:
    """A ring buffer a class, allocated once on the device, eight bits a value.

    Every image that is added is kept until `capacity` newer ones of its class have come. Classes are the zoo's, not a
    member's: images of one class may come from several members, and an episode mixes classes of different members.

    Args:
        classes: Of the zoo.
        capacity: Images of a class that are kept.
        size: Pixels a side.
        device: Where the images live.

    Attributes:
        images: The buffer, uint8; slots beyond what has been written are black and never drawn.
        written: Images of every class that were ever added. On the CPU, where episodes are drawn.
    """

    def __init__(self, classes: int, capacity: int, size: int, device: torch.device) -> None:
        self.images = torch.zeros(classes, capacity, 3, size, size, dtype=torch.uint8, device=device)
        self.written = torch.zeros(classes, dtype=torch.int64)

    @torch.no_grad()
    def add(self, images: Float[Tensor, "images 3 size size"], classes: Int64[Tensor, "images"]) -> None:
        """Keep images in place of the oldest ones of their classes.

        Args:
            images: Finite, nominally in [0, 1]: clipped, then rounded to the nearest of 256 values.
            classes: Class of each image in the zoo. Of one class, a later image counts as newer.
        """
        classes = classes.cpu()
        counts = torch.bincount(classes, minlength=len(self.written))
        order = torch.argsort(classes, stable=True)
        of_class = classes[order]
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[of_class]
        capacity = self.images.shape[1]
        # No two images of a call may share a slot: which one stays would be undefined.
        newest = rank >= counts[of_class] - capacity
        order, of_class, rank = order[newest], of_class[newest], rank[newest]
        slots = (self.written[of_class] + rank) % capacity
        device = self.images.device
        kept = to_bytes(images[order.to(images.device)])
        self.images[of_class.to(device), slots.to(device)] = kept.to(device)
        self.written += counts

    def ready(self, needed: int) -> Int64[Tensor, "ready"]:
        """The classes, in ascending order, that hold at least `needed` images."""
        return torch.nonzero(self._held() >= needed).flatten()

    def episode(self, way: int, shot: int, query: int, generator: torch.Generator) -> Episode:
        """Draw an episode over the classes that hold `shot + query` images; images are float in [0, 1].

        Raises:
            UsageError: If fewer than `way` classes hold that many.
        """
        ready = self.ready(shot + query)
        if len(ready) < way:
            raise UsageError(
                f"the task memory needs {way} classes with {shot} shot + {query} query = {shot + query} images each, "
                f"but {len(ready)} of {len(self.written)} hold that many (at most {self.images.shape[1]} are kept of a "
                "class); recover more images first, keep more, or choose a smaller way, shot or query"
            )
        drawn, support, of_query = sample_episode_indices(self._held()[ready], way, shot, query, generator)
        device = self.images.device
        rows = ready[drawn].to(device)[:, None]
        return Episode(
            to_float(self.images[rows, support.to(device)].flatten(0, 1)),
            episode_labels(way, shot, device),
            to_float(self.images[rows, of_query.to(device)].flatten(0, 1)),
            episode_labels(way, query, device),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The whole memory as named tensors, not copied, for a checkpoint."""
        return {"images": self.images, "written": self.written}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, into a memory of the same shape."""
        self.images.copy_(tensors["images"])
        self.written.copy_(tensors["written"])

    def _held(self) -> Int64[Tensor, "classes"]:
        return self.written.clamp(max=self.images.shape[1])
