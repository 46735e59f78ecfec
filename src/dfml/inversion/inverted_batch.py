"""`InvertedBatch`: some members that one engine has inverted together in a round of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.images import resize_and_crop
from dfml.inversion.engine import Engine, InversionRun, Losses, StudentRowLogits, Target
from dfml.inversion.loss import InversionLoss
from dfml.inversion.shared_images import first_occurrences
from dfml.inversion.terms import BUILT_IN_TERMS


class RecoveredImages(NamedTuple):
    """Images that a round has recovered from one member.

    Attributes:
        images: Images in [0, 1], at the size of the source.
        labels: For every image the output of the member that it was recovered as.
    """

    images: Float[Tensor, "images 3 _size _size"]
    labels: Int64[Tensor, " images"]


@dataclass(frozen=True)
class InvertedBatch:
    """The targets of a finished inversion run, or some of them.

    Attributes:
        engine: The engine of the run.
        run: The run.
        history: Losses before each step, for every target of the run.
        images: Images of every target of the run.
        members: Index in the zoo of each target's member.
        positions: Indices of the targets that are left, of all that the run had.
    """

    engine: Engine
    run: InversionRun
    history: Losses
    images: Sequence[Tensor]
    members: tuple[int, ...]
    positions: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[int, Target, Tensor]]:
        """Member, target and images of everything that is left."""
        for position in self.positions:
            yield self.members[position], self.run.targets[position], self.images[position]

    def without(self, members: set[int]) -> InvertedBatch:
        """The batch without some members."""
        return replace(self, positions=tuple(each for each in self.positions if self.members[each] not in members))

    def keep(self, usable: Callable[[Target, Sequence[InversionLoss], Tensor], bool]) -> InvertedBatch:
        """The batch without targets that a check refuses: (target, its losses before each step, its images) -> bool."""
        kept = [
            position
            for position in self.positions
            if usable(self.run.targets[position], [losses[position] for losses in self.history], self.images[position])
        ]
        return replace(self, positions=tuple(kept))

    def learn(self) -> None:
        """Let the engine learn from what is left; see `Engine.learn`."""
        self.engine.learn(self.run, self.positions)

    def last_losses(self) -> list[InversionLoss]:
        """Losses of what is left before the last step; empty after no step."""
        return [self.history[-1][position] for position in self.positions] if self.history else []

    def collect(self, size: int) -> Iterator[tuple[int, RecoveredImages]]:
        """Member and images of what is left, at a size; an image that several members share is the first one's only."""
        firsts = first_occurrences([target.images for _, target, _ in self])
        for (member, target, images), first in zip(self, firsts, strict=True):
            own, labels = (images, target.labels) if first is None else (images[first], target.labels[first])
            if len(own):
                yield member, RecoveredImages(resize_and_crop(own, size), labels)


def invert_batch(
    engine: Engine,
    members: Sequence[int],
    targets: Sequence[Target],
    round_index: int,
    student: StudentRowLogits | None,
) -> InvertedBatch:
    """Invert some members by all steps of an engine.

    Args:
        engine: The engine.
        members: Index in the zoo of each target's member.
        targets: What is to be recovered; at least one.
        round_index: See `Engine.start`.
        student: See `Engine.start`.
    """
    run = engine.start(targets, round_index, student=student)
    history = run.take_steps(engine.steps)
    return InvertedBatch(engine, run, history, run.images(), tuple(members), tuple(range(len(targets))))


def mean_losses(losses: Sequence[InversionLoss]) -> dict[str, float]:
    """Mean over members of the terms' values, without their weights, as metrics (`ImageSource.last_metrics`)."""
    if not losses:
        return {}
    parts = {
        "inversion_loss": [loss.label for loss in losses],
        "batch_norm_distance": [loss.batch_norm for loss in losses],
        "disagreement": [loss.disagreement for loss in losses],
    }
    for name in losses[0].parts.keys() - set(BUILT_IN_TERMS):
        parts[f"inversion_{name}"] = [loss.parts[name] for loss in losses if name in loss.parts]
    return {name: torch.stack(values).mean().item() for name, values in parts.items()}
