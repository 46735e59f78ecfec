"""`DistillationBuffer`: recovered images with the predictions of all members of the zoo, to train a student on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor

from dfml.images import to_float
from dfml.training.ring_buffer import newest_slots


class DistillationBuffer:
    """A ring buffer that is allocated once on the device: 8 bits per pixel value, 16 bits per log-probability.

    A slot is the position of one image in the buffer: the index of its row in each of the tensors.

    Args:
        capacity: Largest number of images; further images replace the oldest.
        size: Side length of the images in pixels.
        outputs: Number of outputs of all members together.
        device: Device of all tensors.

    Attributes:
        images: The images as bytes; black where nothing has been written.
        log_probabilities: Log-probabilities of the members' outputs, members side by side; NaN where a member was not
            queried.
        classes: The class of the zoo that each image was recovered for; -1 for mixed images and empty slots.
        members: Index of the member that each image was recovered from; -1 for mixed images and empty slots.
        written: Number of images that were ever added.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("images", "log_probabilities", "classes", "members")
    """Names of the tensors of `state_dict` that have one row per slot."""

    images: UInt8[Tensor, "capacity 3 size size"]
    log_probabilities: Float16[Tensor, "capacity outputs"]
    classes: Int64[Tensor, "capacity"]
    members: Int64[Tensor, "capacity"]

    def __init__(self, capacity: int, size: int, outputs: int, device: torch.device) -> None:
        self.images = torch.zeros(capacity, 3, size, size, dtype=torch.uint8, device=device)
        self.log_probabilities = torch.zeros(capacity, outputs, dtype=torch.float16, device=device)
        self.classes = torch.full((capacity,), -1, device=device)
        self.members = torch.full((capacity,), -1, device=device)
        self.written = 0

    @staticmethod
    def bytes_per_image(size: int, outputs: int) -> int:
        """Memory that one image takes with its predictions, class and member, in bytes."""
        return 3 * size * size + 2 * outputs + 16

    def __len__(self) -> int:
        """Number of images that can be sampled."""
        return min(self.written, len(self.images))

    @torch.no_grad()
    def add(
        self,
        images: UInt8[Tensor, "images 3 size size"],
        log_probabilities: Float[Tensor, "images outputs"],
        classes: Int64[Tensor, "images"] | None = None,
        members: Int64[Tensor, "images"] | None = None,
    ) -> None:
        """Store images with their predictions; they replace the oldest ones.

        Args:
            images: Images as bytes. Members must be queried about these rounded images, not about the originals.
            log_probabilities: Log-probabilities of the outputs of all members, side by side; NaN for members that were
                not queried.
            classes: Class of the zoo that each image was recovered for, -1 for none; None: -1 for all.
            members: Index of the member that each image was recovered from, -1 for none; None: -1 for all.
        """
        none = torch.full((len(images),), -1)
        capacity = len(self.images)
        # No two images of a call may share a slot: which one stays would be undefined.
        slots = (self.written + torch.arange(len(images), device=self.images.device))[-capacity:] % capacity
        self.images[slots] = images[-capacity:]
        # The smallest number of 16 bits in place of infinity, of which the divergence would be NaN.
        lowest = torch.finfo(torch.float16).min
        self.log_probabilities[slots] = log_probabilities[-capacity:].clamp_min(lowest).half()
        for rows, values in ((self.classes, classes), (self.members, members)):
            rows[slots] = (none if values is None else values)[-capacity:].to(rows.device)
        self.written += len(images)

    def forget_classes(self, member: int) -> None:
        """Take the class from all images that were recovered from a member, because its labels are wrong."""
        self.classes[self.members == member] = -1

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count 3 size size"], Float[Tensor, "count outputs"]]:
        """Sample a batch uniformly with replacement; returns what `get` returns."""
        return self.get(self.sample_slots(count, generator))

    def get(
        self, slots: Int64[Tensor, "count"]
    ) -> tuple[Float[Tensor, "count 3 size size"], Float[Tensor, "count outputs"]]:
        """Images at some slots, in [0, 1], and the members' log-probabilities (NaN for members not queried)."""
        return to_float(self.images[slots]), self.log_probabilities[slots].float()

    def newest(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """Images that were recovered for one class of the zoo, newest first.

        Args:
            class_index: Index of the class in the zoo.
            count: Largest number of images.

        Returns:
            Images in [0, 1] on the CPU; fewer than `count`, or none, if the buffer holds no more.
        """
        slots = newest_slots(self.written, len(self.images))
        slots = slots[self.classes.cpu()[slots] == class_index][:count]
        return to_float(self.images[slots.to(self.images.device)]).cpu()

    def slots_by_class(self, at_least: int) -> list[Int64[Tensor, "_images"]]:
        """For each class of the zoo with at least `at_least` images in the buffer, the slots that hold its images.

        Returns:
            One tensor per class, in ascending order of the classes; mixed images belong to no class.
        """
        order = torch.argsort(self.classes, stable=True)
        classes, counts = torch.unique_consecutive(self.classes[order], return_counts=True)
        parts = torch.split(order, counts.tolist())
        return [
            slots for label, slots in zip(classes.tolist(), parts, strict=True) if label >= 0 and len(slots) >= at_least
        ]

    def sample_slots(self, count: int, generator: torch.Generator) -> Int64[Tensor, "count"]:
        """Sample slots of images uniformly with replacement; `generator` is on the CPU."""
        return torch.randint(len(self), (count,), generator=generator).to(self.images.device)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, not copied, for a checkpoint."""
        return {**{name: getattr(self, name) for name in self.ROWS}, "written": torch.tensor(self.written)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned; of a buffer of another capacity, as many of the newest images as fit."""
        stored, written = len(tensors["images"]), int(tensors["written"])
        capacity = len(self.images)
        if stored == capacity:
            slots, self.written = torch.arange(capacity), written
        else:
            slots = torch.arange(max(0, written - min(stored, capacity)), written) % stored
            self.written = len(slots)
        for name in self.ROWS:
            rows = tensors[name]
            getattr(self, name)[: len(slots)] = rows[slots.to(rows.device)]
