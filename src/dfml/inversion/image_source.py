"""`ImageSource`: recovers images for a training, some members per round, by any engine; excludes failing members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dfml import seeds
from dfml.errors import RunError
from dfml.inversion.engine import Engine, StudentRowLogits, Target, balanced_labels
from dfml.inversion.failures import FailureTracker, reason_of_zero_variances
from dfml.inversion.fallback import Fallback
from dfml.inversion.inverted_batch import InvertedBatch, RecoveredImages, invert_batch, mean_losses
from dfml.inversion.registry import (
    ENGINES,
    InversionConfig,
    LearnedEngine,
    create_engine,
    missing_requirement,
    without_member_state,
)
from dfml.inversion.shared_images import shared_image_indices
from dfml.inversion.time_budget import RoundSize, TimeBudget
from dfml.zoo.members import remaining_queries
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.probing import predictions_are_constant
from dfml.zoo.zoo import Zoo

_USES = 8  # queries with every recovered image that a member must have left: to confirm it, and to learn from it


class ImageSource:
    """Recovers images from the members of a zoo and excludes members whose inversion fails.

    Args:
        config: The engine and its settings.
        zoo: The members.
        preprocessing: Size of the returned images; images of members with another input are resized. Generators and
            `consensus` optimise at this size, normalised with its mean and standard deviation.
        patience: Number of failed rounds in a row after which a member is excluded; see `FailureTracker`.
        rows: For every member, the rows of the student's head that stand for its outputs; None without a student.
        seed: Seed of all draws.
        device: Device of engine and labels; None: the CPU.

    Attributes:
        engine: The engine; it learns from round to round.
        classes_per_round: Largest number of classes of one member in a round.
        failures: The record of excluded members.
        broken: Indices of excluded members that must not be teachers either (`reason_of_zero_variances`).
        exhausted: Names of members whose limit of queries (`CountedMember`) does not allow another round.
        last_metrics: Metrics of the last round: unweighted loss terms before the last step, means over the members
            whose inversion succeeded; empty without steps or such members. `inversion_loss`: cross-entropy in nats.
            `batch_norm_distance`, `disagreement`: 0 if not computed. `inversion_NAME`: each term of another package.
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
        self._fallback = Fallback(config, seed)
        self.exhausted: set[str] = set()
        self.last_metrics: dict[str, float] = {}
        self.classes_per_round = config.classes_per_round
        self._entry = ENGINES.find(config.engine)
        self._config, self._zoo, self._preprocessing, self._rows = config, zoo, preprocessing, rows
        self._seed, self._device = seed, device or torch.device("cpu")
        limits = zoo, config.budget, config.classes_per_round
        self._budget = TimeBudget(*limits, self.engine.steps)
        second = self._fallback.engine or self.engine
        self._fallback_budget = TimeBudget(*limits, second.steps, self.engine.steps)
        self._messages: list[str] = []
        self._exclude_unsuited()

    def _exclude_unsuited(self) -> None:
        """Exclude members that the engine cannot invert, and broken ones."""
        self.broken: set[int] = set()
        for index in range(len(self._zoo)):
            broken = reason_of_zero_variances(self._zoo[index])
            if broken:
                self.broken.add(index)
            if reason := broken or missing_requirement(self._config.engine, self._zoo[index]):
                name = self._zoo.name(index)
                self.failures.excluded[name] = reason
                self._messages.append(f"{name} is not inverted: {reason}")
        self._require_members()

    def sample_members(self, round_index: int, count: int) -> list[int]:
        """Draw up to `count` different members at random, without excluded and exhausted ones."""
        usable = [index for index in range(len(self._zoo)) if self._is_usable(index)]
        order = torch.randperm(len(usable), generator=seeds.generator(self._seed, "members", round_index))
        return [usable[index] for index in order[:count].tolist()]

    def next_members(self, round_index: int, count: int) -> list[int]:
        """Take up to `count` different members in turn, so that over many rounds all are taken about equally often.

        Every pass over the zoo has its own random order. Excluded members are skipped and not replaced; if all whose
        turn it is are excluded, members are drawn as by `sample_members`.

        Args:
            round_index: Number of the round, counted from 1.
            count: Largest number of members.
        """
        members = len(self._zoo)
        chosen: dict[int, None] = {}  # a set that keeps its order
        for position in range((round_index - 1) * count, round_index * count):
            order = torch.randperm(members, generator=seeds.generator(self._seed, "round", position // members))
            chosen[int(order[position % members])] = None
        usable = [index for index in chosen if self._is_usable(index)]
        return usable or self.sample_members(round_index, count)

    def _is_usable(self, index: int) -> bool:
        return self._zoo.name(index) not in self.failures.excluded.keys() | self.exhausted

    def can_query(self, member: int, images: int) -> bool:
        """Whether a member may be queried with so many images; if not, it is exhausted, and a message says so once."""
        left, name = remaining_queries(self._zoo[member]), self._zoo.name(member)
        if left < images and name not in self.exhausted:
            self.exhausted.add(name)
            self._messages.append(
                f"{name} is not queried any more: its limit leaves {left:.0f} images, and {images} are needed. What "
                "was learned from it is kept"
            )
        return left >= images

    def labels(self, member: int, per_class: int, round_index: int) -> Int64[Tensor, " images"]:
        """Outputs of a member to recover images of, ascending, each `per_class` times.

        These are all of its outputs, or `classes_per_round` of them at random; fewer, and fewer images of each, of a
        member that would exceed the time budget (`dfml.inversion.time_budget`).
        """
        outputs, size = len(self._zoo.classes.of_member[member]), self._round_size(member, per_class)
        if outputs <= size.classes:
            return balanced_labels(outputs, size.per_class, self._device)
        generator = seeds.generator(self._seed, "outputs", round_index, self._zoo.name(member))
        chosen = torch.randperm(outputs, generator=generator)[: size.classes].sort().values
        return chosen.repeat_interleave(size.per_class).to(self._device)

    def _round_size(self, member: int, per_class: int) -> RoundSize:
        has_fallback = self._fallback.has(self._zoo.name(member))
        return (self._fallback_budget if has_fallback else self._budget).round_size(member, per_class)

    def most_images(self, per_class: int) -> int:
        """Largest number of images that a round recovers from one member."""
        return per_class * min(max(map(len, self._zoo.classes.of_member)), self.classes_per_round)

    def recover(
        self,
        members: Sequence[int],
        per_class: int,
        round_index: int,
        *,
        student: StudentRowLogits | None = None,
        learner_weights: Iterable[Tensor] = (),
    ) -> dict[int, RecoveredImages]:
        """Recover images from some members.

        A member that does not recognise its first images is inverted by `InversionConfig.fallback`, if that is set.

        Args:
            members: Indices of the members.
            per_class: Number of images of every output in `labels`, unless the time budget allows fewer.
            round_index: Number of the round: draws differ between rounds and repeat when a round is repeated.
            student: Student logits; images maximise the divergence between member and student. None disables the term.
            learner_weights: Weights of the learner; if they are not finite, a failed inversion is not a member's fault.

        Returns:
            Member index -> its images and their labels, for every member whose inversion succeeded. An image that
            several members share (`EngineEntry.shares_pixels`) is returned once, with the first of them in the order of
            `members`; a member all of whose images are returned with others is left out, and so is one whose limit of
            queries does not allow the round.

        Raises:
            RunError: If no member is left, or, after a failure, the engine's state or the learner is not finite.
        """
        members = [index for index in members if self.can_query(index, self._queries(index, per_class, round_index))]
        plain = [index for index in members if not self._fallback.has(self._zoo.name(index))]
        batches = [self._invert(self.engine, plain, per_class, round_index, student)] if plain else []
        retried = {index for batch in batches for index in self._unrecognised(batch)}
        others = [index for index in members if index not in plain or index in retried]
        batches = [batch.without(retried) for batch in batches]
        if self._fallback.engine and others:
            batches.append(self._invert(self._fallback.engine, others, per_class, round_index, student))
        usable = [batch.keep(self.failures.check) for batch in batches]
        names = {self._zoo.name(index) for batch in usable for index, _, _ in batch}
        self._report({self._zoo.name(index) for index in members} - names, learner_weights)
        for batch in usable:
            batch.learn()
        self.last_metrics = mean_losses([loss for batch in usable for loss in batch.last_losses()])
        found = {index: images for batch in usable for index, images in batch.collect(self._preprocessing.size)}
        return {index: found[index] for index in members if index in found}

    def _queries(self, member: int, per_class: int, round_index: int) -> int:
        images = len(self.labels(member, per_class, round_index))
        return images * (self.engine.queries_per_image + _USES)

    def _invert(
        self, engine: Engine, members: Sequence[int], per_class: int, round_index: int, student: StudentRowLogits | None
    ) -> InvertedBatch:
        shares_pixels = self._entry.shares_pixels and engine is self.engine
        targets = self._targets(members, per_class, round_index, shares_pixels)
        return invert_batch(engine, members, targets, round_index, student)

    def _unrecognised(self, batch: InvertedBatch) -> set[int]:
        """Members that do not recognise their first images, and are to be inverted by the fallback."""
        found = set()
        for index, target, images in batch:
            if message := self._fallback.decide(target, images):
                self._messages.append(message)
                found.add(index)
        return found

    def _targets(self, members: Sequence[int], per_class: int, round_index: int, shares_pixels: bool) -> list[Target]:
        labels = [self.labels(index, per_class, round_index) for index in members]
        image_indices: list[Tensor] | list[None] = [None] * len(members)
        if shares_pixels:
            classes = [
                torch.tensor(self._zoo.classes.of_member[index], device=self._device)[member_labels]
                for index, member_labels in zip(members, labels, strict=True)
            ]
            image_indices = shared_image_indices(classes)
        return [
            Target(
                self._zoo.name(index),
                self._zoo[index],
                member_labels,
                self._rows[index] if self._rows else None,
                indices,
                self._round_size(index, per_class).steps,
            )
            for index, member_labels, indices in zip(members, labels, image_indices, strict=True)
        ]

    def confirmed(
        self, member: int, labels: Int64[Tensor, " images"], scores: Float[Tensor, "images _outputs"]
    ) -> Bool[Tensor, " images"]:
        """Return which images may be used with their label (`InversionConfig.confirmed_only`), and count them.

        A member that recognises too few in too many rounds, or predicts the same for all, is excluded.

        Args:
            member: Index of the member that the images were recovered from.
            labels: Outputs of the member that they were recovered as.
            scores: Logits or log-probabilities of the member for the images as they are stored.

        Returns:
            True for every image that the member predicts as its label; all True if the setting is off.

        Raises:
            RunError: If no member is left.
        """
        recognised = scores.argmax(dim=1) == labels.to(scores.device)
        if not self._config.confirmed_only:
            return torch.ones_like(recognised)
        name, known = self._zoo.name(member), set(self.failures.excluded)
        self.failures.count_confirmed(name, int(recognised.sum()), len(labels), len(set(labels.tolist())))
        if predictions_are_constant(scores):
            reason = f"it predicts the same probabilities for all {len(scores)} images that were recovered from it"
            self.failures.excluded.setdefault(name, reason)
        if name in self.failures.excluded.keys() - known:
            self._announce(name)
        return recognised

    def exclude(self, member: int, reason: str) -> None:
        """Exclude a member from further rounds, with a message; no effect if it is excluded already.

        Args:
            member: Index of the member.
            reason: What is wrong with it.

        Raises:
            RunError: If no member is left.
        """
        name = self._zoo.name(member)
        if name not in self.failures.excluded:
            self.failures.excluded[name] = reason
            self._announce(name)

    def _announce(self, name: str) -> None:
        self._messages.append(f"{name} is excluded: {self.failures.excluded[name]}")
        self._require_members()

    def pop_messages(self) -> list[str]:
        """Return, and remove, the messages on members that were excluded or limited since the last call."""
        messages, self._messages = self._messages, []
        return [*messages, *self._budget.pop_messages(), *self._fallback_budget.pop_messages()]

    def _report(self, names: set[str], learner_weights: Iterable[Tensor]) -> None:
        """Add a message for every member that failed.

        Raises:
            RunError: If the engine or the learner is not finite any more, or no member is left.
        """
        for name in sorted(names):
            self._messages.append(f"{name} is excluded: {self.failures.excluded[name]}")
        if names and not all(
            bool(value.isfinite().all()) for value in [*self.engine.state_dict().values(), *learner_weights]
        ):
            raise RunError(
                "the inversion engine or the learner itself is not finite any more; lower the learning rates. "
                "The last checkpoint is intact"
            )
        self._require_members()

    def _require_members(self) -> None:
        if len(self.failures.excluded) == len(self._zoo):
            first, reason = next(iter(self.failures.excluded.items()))
            raise RunError(
                f"no member is left to learn from: of {len(self._zoo)}, {first} was excluded first: {reason}; "
                "lower the engine's learning rates, or look at the members with `dfml zoo inspect`"
            )

    def learned_engine(self) -> LearnedEngine | None:
        """The engine with what it has learned, for members outside of the zoo; None if it is not meta-trained."""
        if not self._entry.meta_trained:
            return None
        return LearnedEngine(self._config, self._preprocessing, without_member_state(self.engine.state_dict()))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values for a checkpoint."""
        tensors, decided = self._fallback.state_dict()
        values = {"engine": self._config.engine, "failures": self.failures.state_dict(), "fallback": decided}
        return self.engine.state_dict() | tensors, values

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            RunError: If the state belongs to another engine.
        """
        if values["engine"] != self._config.engine:
            raise RunError(
                f"the checkpoint is of a run with the engine {values['engine']}, not {self._config.engine}; use the "
                "same one"
            )
        self.engine.load_state_dict(tensors)
        self.failures.load_state_dict(values["failures"])
        self._fallback.load_state_dict(tensors, values.get("fallback", {}))
