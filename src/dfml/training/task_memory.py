"""`TaskMemory`: the newest recovered images of every class of a zoo, from which tasks are sampled (FREE)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dfml.errors import UsageError
from dfml.images import to_bytes, to_float
from dfml.learners.episode import Episode, episode_labels, sample_episode_indices
from dfml.training.ring_buffer import newest_slots


class TaskMemory:
    """One ring buffer per class, allocated once on the device, with 8 bits per pixel value.

    An image is kept until `capacity` newer images of its class have been added. Classes are those of the zoo, not of a
    member: images of one class may come from several members, and an episode mixes classes of different members.

    Args:
        classes: Number of classes of the zoo.
        capacity: Largest number of images per class.
        size: Side length of the images in pixels.
        device: Device of the images.

    Attributes:
        images: The buffer; slots that have not been written are black and are never sampled.
        written: Number of images of every class that were ever added; on the CPU, where episodes are sampled.
    """

    images: UInt8[Tensor, "classes capacity 3 size size"]
    written: Int64[Tensor, "classes"]

    def __init__(self, classes: int, capacity: int, size: int, device: torch.device) -> None:
        self.images = torch.zeros(classes, capacity, 3, size, size, dtype=torch.uint8, device=device)
        self.written = torch.zeros(classes, dtype=torch.int64)

    @torch.no_grad()
    def add(self, images: Float[Tensor, "images 3 size size"], classes: Int64[Tensor, "images"]) -> None:
        """Store images; they replace the oldest ones of their classes.

        Args:
            images: Finite images, nominally in [0, 1]: they are clipped and rounded to the nearest of 256 values.
            classes: Class of each image in the zoo. Among the images of one class, a later one counts as newer.
        """
        classes = classes.cpu()
        counts = torch.bincount(classes, minlength=len(self.written))
        order = torch.argsort(classes, stable=True)
        sorted_classes = classes[order]
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[sorted_classes]
        capacity = self.images.shape[1]
        # No two images of a call may share a slot: which one stays would be undefined.
        newest = rank >= counts[sorted_classes] - capacity
        order, sorted_classes, rank = order[newest], sorted_classes[newest], rank[newest]
        slots = (self.written[sorted_classes] + rank) % capacity
        device = self.images.device
        stored = to_bytes(images[order.to(images.device)])
        self.images[sorted_classes.to(device), slots.to(device)] = stored.to(device)
        self.written += counts

    def ready(self, needed: int) -> Int64[Tensor, "ready"]:
        """Classes that hold at least `needed` images, in ascending order."""
        return torch.nonzero(self._counts() >= needed).flatten()

    def newest(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """Images of one class of the zoo, newest first.

        Args:
            class_index: Index of the class in the zoo.
            count: Largest number of images.

        Returns:
            Images in [0, 1] on the CPU; fewer than `count`, or none, if the memory holds no more.
        """
        slots = newest_slots(int(self.written[class_index]), self.images.shape[1])[:count]
        return to_float(self.images[class_index, slots.to(self.images.device)]).cpu()

    def episode(self, way: int, shot: int, query: int, generator: torch.Generator) -> Episode:
        """Sample an episode from the classes that hold at least `shot + query` images.

        Args:
            way: Number of classes.
            shot: Number of support images per class.
            query: Number of query images per class.
            generator: Random generator on the CPU.

        Returns:
            The episode; its images are float in [0, 1] on the device of the memory.

        Raises:
            UsageError: If fewer than `way` classes hold enough images.
        """
        ready = self.ready(shot + query)
        if len(ready) < way:
            raise UsageError(
                f"the task memory needs {way} classes with {shot} shot + {query} query = {shot + query} images each, "
                f"but {len(ready)} of {len(self.written)} hold that many (at most {self.images.shape[1]} are kept per "
                "class); recover more images first, keep more, or choose a smaller way, shot or query"
            )
        chosen, support, queries = sample_episode_indices(self._counts()[ready], way, shot, query, generator)
        device = self.images.device
        rows = ready[chosen].to(device)[:, None]
        return Episode(
            to_float(self.images[rows, support.to(device)].flatten(0, 1)),
            episode_labels(way, shot, device),
            to_float(self.images[rows, queries.to(device)].flatten(0, 1)),
            episode_labels(way, query, device),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, not copied, for a checkpoint."""
        return {"images": self.images, "written": self.written}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what the `state_dict` of a memory of the same shape returned."""
        self.images.copy_(tensors["images"])
        self.written.copy_(tensors["written"])

    def _counts(self) -> Int64[Tensor, "classes"]:
        """Number of images that every class holds."""
        return self.written.clamp(max=self.images.shape[1])
