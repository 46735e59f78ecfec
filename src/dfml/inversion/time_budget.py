"""`TimeBudget`: how many images and steps the inversion of one member may take in a round of a training.

Without it, one ResNet-50 at 224 pixels takes as long in a round as hundreds of Conv4. If the round of a member would
cost more than the budget, it is reduced in this order: fewer classes, down to five; fewer images of each class, down to
one; fewer steps. Costs are counted, not timed (`dfml.inversion.image_cost`), so that a training is repeatable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dfml.backbones import create_backbone
from dfml.inversion.image_cost import image_operations
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.zoo import Zoo

_LEAST_CLASSES = 5  # the statistics of fewer classes are too far from the running statistics, which are of all classes
_REFERENCE, _REFERENCE_SIZE = "conv4_64", 32
_REFERENCE_CLASSES = 1000  # the head is a small part of the cost; a Conv4 with fewer classes is cheaper


@dataclass(frozen=True)
class RoundSize:
    """Size of one member's inversion in a round.

    Attributes:
        classes: Largest number of classes.
        per_class: Number of images per class.
        steps: Largest number of steps; None: no other limit than `Engine.steps`.
    """

    classes: int
    per_class: int
    steps: int | None = None


class TimeBudget:
    """Derives the classes, images and steps of every member's round from a budget of operations per member and round.

    The unit is the cost of an image in one step of a Conv4 with 64 channels, 1000 classes and 32 x 32 pixels. A
    member's round may cost `budget` times as much as a round of that Conv4 with images of `classes_per_round` classes
    and `steps` steps. Members are limited independently of each other.

    Args:
        zoo: The members. One that is no `PretrainedClassifier` is not limited, because its cost cannot be counted.
        budget: Factor as described above; 0: no limit.
        classes_per_round: Largest number of classes of a member in a round.
        steps: Largest number of steps of the engine.
        reference_steps: Number of steps of the round that the budget refers to; None: as many as `steps`. An engine
            that takes more has fewer images.
    """

    def __init__(
        self, zoo: Zoo, budget: float, classes_per_round: int, steps: int, reference_steps: int | None = None
    ) -> None:
        self._zoo, self._budget = zoo, budget
        self._relative_steps = (reference_steps or steps) / steps if steps else 1.0
        self._classes_per_round, self._steps = classes_per_round, steps
        self._sizes: dict[tuple[int, int], RoundSize] = {}
        self._reported: set[tuple[int, int, int]] = set()
        self._messages: list[str] = []

    def round_size(self, member: int, per_class: int) -> RoundSize:
        """Size of a member's inversion in every round.

        Args:
            member: Index of the member; it is loaded to count its operations.
            per_class: Number of images per class without a limit.
        """
        key = member, per_class
        if key not in self._sizes:
            self._sizes[key] = self._measured(member, per_class)
        return self._sizes[key]

    def pop_messages(self) -> list[str]:
        """Return and forget the messages on members that are limited, one for all members of the same kind."""
        messages, self._messages = self._messages, []
        return messages

    def _measured(self, member: int, per_class: int) -> RoundSize:
        unlimited = RoundSize(self._classes_per_round, per_class)
        classifier = self._zoo[member] if self._budget else None
        if not isinstance(classifier, PretrainedClassifier):
            return unlimited
        operations, outputs = image_operations(classifier), len(classifier.labels)
        reference = self._classes_per_round * per_class * self._relative_steps
        images = self._budget * reference * self._reference_operations / operations
        wanted = min(outputs, self._classes_per_round) * per_class
        if wanted <= images:
            return unlimited
        size = fit_round(min(outputs, self._classes_per_round), per_class, images, self._steps)
        if (operations, outputs, per_class) not in self._reported:
            self._reported.add((operations, outputs, per_class))
            self._messages.append(self._describe(member, outputs, per_class, size, wanted / images))
        return size

    @cached_property
    def _reference_operations(self) -> int:
        network = create_backbone(_REFERENCE, _REFERENCE_CLASSES, seed=0, img_size=_REFERENCE_SIZE)
        half = (0.5, 0.5, 0.5)
        labels = tuple(f"class {index}" for index in range(_REFERENCE_CLASSES))
        return image_operations(PretrainedClassifier(network, labels, Preprocessing(_REFERENCE_SIZE, half, half)))

    def _describe(self, member: int, outputs: int, per_class: int, size: RoundSize, ratio: float) -> str:
        limits = f"images of {size.classes} of its {outputs} classes"
        if size.per_class < per_class:
            limits += f", {size.per_class} instead of {per_class} of each"
        if size.steps:
            limits += f", in at most {size.steps} instead of {self._steps} steps"
        return (
            f"{self._zoo.name(member)}, and members like it: a round would cost {ratio:.1f} times the time budget "
            f"(inversion.budget={self._budget:g}), so it has {limits}"
        )


def fit_round(classes: int, per_class: int, images: float, steps: int) -> RoundSize:
    """Choose classes, images per class and steps of a round whose budget allows fewer images than wanted.

    Args:
        classes: Number of classes without a limit.
        per_class: Number of images per class without a limit.
        images: Number of images that the budget allows for `steps` steps; positive, less than `classes * per_class`.
        steps: Number of steps without a limit.
    """
    classes = max(min(classes, _LEAST_CLASSES), min(classes, int(images) // per_class))
    per_class = max(1, min(per_class, int(images) // classes))
    share = images / (classes * per_class)
    return RoundSize(classes, per_class, None if share >= 1.0 else max(1, int(share * steps)))
