"""`ImageSource`: images of a zoo, a few members a visit, from whichever engine; bad members are named and left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from dfml import seeds
from dfml.errors import RunError
from dfml.images import resize_and_crop
from dfml.inversion.engine import StudentRowLogits, Target, balanced_labels
from dfml.inversion.failures import FailureTracker
from dfml.inversion.loss import InversionLoss
from dfml.inversion.registry import InversionConfig, LearnedEngine, create_engine
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.zoo import Zoo


class ImageSource:
    """Recovers images from members, and knows which of them are not worth another visit.

    Args:
        config: The engine and its settings.
        zoo: Whose members are visited.
        preprocessing: Of the images; those of members with another input are resized.
        patience: See `FailureTracker`.
        rows: For every member, the rows of the student's head that stand for its outputs; None without a student.
        seed: Of all draws.
        device: Where everything is.

    Attributes:
        engine: What recovers; it learns from visit to visit.
        classes_per_round: The most classes of a member that a visit recovers images of.
        health: The record of the members.
        last: Means of the last visit's losses over the members that it went well with.
    """

    def __init__(
        self,
        config: InversionConfig,
        zoo: Zoo,
        preprocessing: Preprocessing,
        *,
        patience: int,
        rows: Sequence[Tensor] | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.engine = create_engine(config, preprocessing, seed=seed, device=device)
        self.failures = FailureTracker(patience)
        self.last: dict[str, float] = {}
        self.classes_per_round = config.classes_per_round
        self._config, self._preprocessing = config, preprocessing
        self._name, self._zoo, self._size, self._rows = config.engine, zoo, preprocessing.size, rows
        self._seed, self._device = seed, device or torch.device("cpu")
        self._messages: list[str] = []

    def sample_members(self, visit: int, count: int) -> list[int]:
        """Up to `count` different members at random, without those that are excluded."""
        fit = [index for index in range(len(self._zoo)) if self._zoo.name(index) not in self.failures.excluded]
        order = torch.randperm(len(fit), generator=seeds.generator(self._seed, "members", visit))
        return [fit[index] for index in order[:count].tolist()]

    def next_members(self, visit: int, count: int) -> list[int]:
        """Up to `count` different members, so that after many visits all have been visited equally often.

        Every round has an order of its own. Members that are excluded are passed over.
        """
        everyone = len(self._zoo)
        chosen: dict[int, None] = {}
        for place in range((visit - 1) * count, visit * count):
            order = torch.randperm(everyone, generator=seeds.generator(self._seed, "round", place // everyone))
            chosen[int(order[place % everyone])] = None  # a set that keeps its order
        fit = [index for index in chosen if self._zoo.name(index) not in self.failures.excluded]
        return fit or self.sample_members(visit, count)

    def labels(self, member: int, per_class: int, visit: int) -> Int64[Tensor, " images"]:
        """`per_class` images of every output of a member, or of as many of its outputs as a visit has room for."""
        outputs = len(self._zoo.classes.of_member[member])
        if outputs <= self.classes_per_round:
            return balanced_labels(outputs, per_class, self._device)
        draw = seeds.generator(self._seed, "outputs", visit, self._zoo.name(member))
        chosen = torch.randperm(outputs, generator=draw)[: self.classes_per_round].sort().values
        return chosen.repeat_interleave(per_class).to(self._device)

    def most_images(self, per_class: int) -> int:
        """Of one member that a visit recovers."""
        return per_class * min(max(map(len, self._zoo.classes.of_member)), self.classes_per_round)

    def recover(
        self,
        members: Sequence[int],
        per_class: int,
        visit: int,
        *,
        student: StudentRowLogits | None = None,
        own: Iterable[Tensor] = (),
    ) -> dict[int, Tensor]:
        """Recover images from some members.

        Args:
            members: Their indices.
            per_class: Images of every output that `labels` names.
            visit: Its number: draws differ from visit to visit, and are the same when one is repeated.
            student: Whom the images should be hard for.
            own: The student's weights: when they are not finite, a failure is no member's fault.

        Returns:
            Images in [0, 1], in the order of `labels`, of every member whose recovery went well.

        Raises:
            RunError: If no member is left to visit, or what learns is not finite itself.
        """
        names, rows = [self._zoo.name(index) for index in members], self._rows
        targets = [
            Target(name, self._zoo[index], self.labels(index, per_class, visit), rows[index] if rows else None)
            for name, index in zip(names, members, strict=True)
        ]
        recovery = self.engine.start(targets, visit, student=student)
        history = [recovery.step() for _ in range(self.engine.steps)]
        images = recovery.images()
        kept = [
            place
            for place, target in enumerate(targets)
            if self.failures.judge(target, [losses[place] for losses in history], images[place])
        ]
        self._report({name for place, name in enumerate(names) if place not in kept}, own)
        self.engine.learn(recovery, kept)
        self.last = _means([history[-1][place] for place in kept]) if history else {}
        return {members[place]: resize_and_crop(images[place], self._size) for place in kept}

    def learned_engine(self) -> LearnedEngine | None:
        """The engine, if it is meta-trained, without what it stores of single members; None otherwise."""
        if self._config.engine not in ("five", "fast_dfkd"):
            return None
        tensors = {n: v for n, v in self.engine.state_dict().items() if not n.startswith("ema_statistics.")}
        return LearnedEngine(self._config, self._preprocessing, tensors)

    def pop_messages(self) -> list[str]:
        """Who was excluded since the last call, and why."""
        notes, self._messages = self._messages, []
        return notes

    def _report(self, names: set[str], own: Iterable[Tensor]) -> None:
        """Say which members are excluded, unless the fault is not theirs."""
        for name in sorted(names):
            self._messages.append(f"{name} is excluded: {self.failures.excluded[name]}")
        if names and not all(bool(value.isfinite().all()) for value in [*self.engine.state_dict().values(), *own]):
            raise RunError(
                "the generator or the learner itself is not finite any more; lower the learning rates. "
                "The last checkpoint is intact"
            )
        if len(self.failures.excluded) == len(self._zoo):
            first, reason = next(iter(self.failures.excluded.items()))
            raise RunError(
                f"no member is left to learn from: of {len(self._zoo)}, {first} was excluded first: {reason}; "
                "lower the engine's learning rates, or look at the members with `dfml zoo inspect`"
            )

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values for a checkpoint."""
        return self.engine.state_dict(), {"engine": self._name, "health": self.failures.state_dict()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
            RunError: If the state is of another engine.
        """
        if values["engine"] != self._name:
            raise RunError(
                f"the checkpoint is of a run with the engine {values['engine']}, not {self._name}; use the same one"
            )
        self.engine.load_state_dict(tensors)
        self.failures.load_state_dict(values["health"])


def _means(losses: list[InversionLoss]) -> dict[str, float]:
    if not losses:
        return {}
    parts = {
        "inversion_loss": [loss.label for loss in losses],
        "batch_norm_distance": [loss.batch_norm for loss in losses],
        "disagreement": [loss.disagreement for loss in losses],
    }
    return {name: torch.stack(values).mean().item() for name, values in parts.items()}
