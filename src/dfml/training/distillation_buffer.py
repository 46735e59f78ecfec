"""`DistillationBuffer`: recovered images with the predictions of all members of the zoo, to train a student on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor

from dfml.images import to_float


class DistillationBuffer:
    """A ring buffer, allocated once on the device: an image takes eight bits a value, an answer sixteen.

    Args:
        capacity: Images that are kept; later ones take the place of the oldest.
        size: Pixels a side.
        outputs: Of all members together.
        device: Where everything lives.

    Attributes:
        classes: What each image was recovered as, by its class in the zoo; -1: as nothing in particular.
        written: Images that were ever added.
    """

    images: UInt8[Tensor, "capacity 3 size size"]
    answers: Float16[Tensor, "capacity outputs"]

    def __init__(self, capacity: int, size: int, outputs: int, device: torch.device) -> None:
        self.images = torch.zeros(capacity, 3, size, size, dtype=torch.uint8, device=device)
        self.answers = torch.zeros(capacity, outputs, dtype=torch.float16, device=device)
        self.classes = torch.full((capacity,), -1, device=device)
        self.written = 0

    @staticmethod
    def bytes_each(size: int, outputs: int) -> int:
        """What an image takes, with its answers and its class."""
        return 3 * size * size + 2 * outputs + 8

    def __len__(self) -> int:
        """Images that can be drawn."""
        return min(self.written, len(self.images))

    @torch.no_grad()
    def add(
        self,
        images: UInt8[Tensor, "images 3 size size"],
        answers: Float[Tensor, "images outputs"],
        classes: Int64[Tensor, "images"] | None = None,
    ) -> None:
        """Keep images and answers in place of the oldest.

        Args:
            images: As `to_bytes` makes them: what members are asked about must be what is kept.
            answers: Log-probabilities of every member's outputs, members side by side; NaN where none was asked.
            classes: See the attribute; None: all -1.
        """
        classes = torch.full((len(images),), -1) if classes is None else classes
        capacity = len(self.images)
        # No two images of a call may share a slot: which one stays would be undefined.
        slots = (self.written + torch.arange(len(images), device=self.images.device))[-capacity:] % capacity
        self.images[slots] = images[-capacity:]
        self.answers[slots] = answers[-capacity:].half()
        self.classes[slots] = classes[-capacity:].to(self.classes.device)
        self.written += len(images)

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count 3 size size"], Float[Tensor, "count outputs"]]:
        """A batch at random, with repetition; see `get`."""
        return self.get(self.sample_indices(count, generator))

    def get(
        self, chosen: Int64[Tensor, "count"]
    ) -> tuple[Float[Tensor, "count 3 size size"], Float[Tensor, "count outputs"]]:
        """The images at some indices, in [0, 1], and their answers."""
        return to_float(self.images[chosen]), self.answers[chosen].float()

    def indices_by_class(self, at_least: int) -> list[Int64[Tensor, "_images"]]:
        """Indices of the images of each class that has so many, class by class."""
        order = torch.argsort(self.classes, stable=True)
        classes, counts = torch.unique_consecutive(self.classes[order], return_counts=True)
        rows = torch.split(order, counts.tolist())
        return [row for label, row in zip(classes.tolist(), rows, strict=True) if label >= 0 and len(row) >= at_least]

    def sample_indices(self, count: int, generator: torch.Generator) -> Int64[Tensor, "count"]:
        """Indices of images at random, with repetition."""
        return torch.randint(len(self), (count,), generator=generator).to(self.images.device)

    ROWS: ClassVar[tuple[str, ...]] = ("images", "probabilities", "classes")
    """Those of `tensors` of which there is a row for each slot."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as named tensors, not copied, for a checkpoint."""
        return {
            "images": self.images,
            "answers": self.answers,
            "classes": self.classes,
            "written": torch.tensor(self.written),
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; into a buffer of another capacity, as many of the newest images as it takes."""
        held, written = len(tensors["images"]), int(tensors["written"])
        capacity = len(self.images)
        if held == capacity:
            kept, self.written = torch.arange(capacity), written
        else:
            kept = torch.arange(max(0, written - min(held, capacity)), written) % held
            self.written = len(kept)
        for name in self.ROWS:
            rows = tensors[name]
            getattr(self, name)[: len(kept)] = rows[kept.to(rows.device)]
