"""`FailureTracker`: which inversions failed, and which members are excluded from further rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.engine import Target
from dfml.inversion.loss import InversionLoss
from dfml.zoo.members import Predicts
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.statistics import layers_without_variance

_LEAST_CONFIRMED = 0.05  # fraction of a round's images that a member must recognise; usable members recognise far more
_REPORTED = 0.05  # fraction of a member's images: a message names members that do not recognise more than this
_NAMED = 5  # largest number of members that the message names
_CONSTANT = 1e-3  # mean standard deviation of values in [0, 1]: a quarter of a grey level of 256


class FailureTracker:
    """Records members whose inversion fails, so that a run can continue without them.

    A member is excluded at once if its cross-entropy or its images are not finite, its images are constant, or all
    images of a class are the same (standard deviation below 0.001, on average); and after `patience` rounds in a row in
    which the cross-entropy did not fall and ended above that of a uniform prediction, or in which the member recognised
    too few of its images (`count_confirmed`).

    Args:
        patience: Number of such rounds in a row after which a member is excluded.

    Attributes:
        excluded: Name of every excluded member -> what is wrong with it.
        confirmed: Name of a member -> (images recovered from it that it recognised, all that were checked).
    """

    def __init__(self, patience: int = 5) -> None:
        self.excluded: dict[str, str] = {}
        self._patience = patience
        self.confirmed: dict[str, tuple[int, int]] = {}
        self._stalled: dict[str, int] = {}
        self._unconfirmed: dict[str, int] = {}

    def check(
        self,
        target: Target,
        losses: Sequence[InversionLoss],
        images: Float[Tensor, "images 3 size size"],
    ) -> bool:
        """Return whether the images that a run recovered from one member can be used; exclude the member if not.

        Args:
            target: What was to be recovered.
            losses: Losses of this target before each step; without any, only the images are checked.
            images: Images after the last step.
        """
        values = torch.stack([loss.label for loss in losses]).tolist() if losses else []
        if not all(map(math.isfinite, values)) or not bool(images.isfinite().all()):
            self.excluded[target.name] = "the inversion diverged (its cross-entropy or its images are not finite)"
            return False
        if _least_deviation(images, target.labels) < _CONSTANT:
            self.excluded[target.name] = "the inversion collapsed (images are constant, or all of a class are the same)"
            return False
        stalled = len(values) > 1 and values[-1] >= values[0] and values[-1] > math.log(len(target.classifier.labels))
        self._stalled[target.name] = self._stalled.get(target.name, 0) + 1 if stalled else 0
        if self._stalled[target.name] >= self._patience:
            self.excluded[target.name] = (
                f"its cross-entropy has stopped falling (at {values[-1]:.2f}, worse than chance, "
                f"after {self._patience} rounds)"
            )
            return False
        return True

    def count_confirmed(self, name: str, confirmed: int, images: int, classes: int | None = None) -> None:
        """Count how many of its images a member recognised; exclude it after `patience` failed rounds in a row.

        A round has failed if the member recognised fewer than 5% of the images. It has also failed if the member
        recognised no more than chance, one in `classes` (as if it predicted one class for every image), while more than
        half of the other members recognised more than that of theirs so far. If most others did not, the engine is at
        fault (a generator in its first rounds, for example).

        Args:
            name: Name of the member.
            confirmed: Number of images of the round that the member predicts as their label.
            images: Number of images of the round, equally many of every class.
            classes: Number of classes of these images; None: no comparison with chance.
        """
        before = self.confirmed.get(name, (0, 0))
        self.confirmed[name] = (before[0] + confirmed, before[1] + images)
        failed = confirmed < _LEAST_CONFIRMED * images
        if classes and confirmed * classes <= images:
            others = [counts for other, counts in self.confirmed.items() if other != name]
            better = sum(theirs[0] * classes > theirs[1] for theirs in others)
            failed |= 2 * better > len(others)
        self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1 if failed else 0
        if self._unconfirmed[name] >= self._patience:
            self.excluded[name] = (
                f"it recognised only {self.confirmed[name][0]} of {self.confirmed[name][1]} images that were recovered "
                f"from it, and none or no more than chance in the last {self._patience} rounds"
            )

    def confirmation_metrics(self) -> dict[str, float]:
        """Metric `confirmed`: fraction of all images counted so far that their own member recognised; empty without."""
        total = sum(images for _, images in self.confirmed.values())
        return {"confirmed": sum(confirmed for confirmed, _ in self.confirmed.values()) / total} if total else {}

    def describe_unrecognised(self) -> list[str]:
        """One line on the members that did not recognise over 5% of their images, worst first; empty without any."""
        counts = [(images - confirmed, images, name) for name, (confirmed, images) in self.confirmed.items()]
        reported = sorted((row for row in counts if row[0] > _REPORTED * row[1]), key=lambda row: -row[0] / row[1])
        if not reported:
            return []
        named = ", ".join(f"{name} {lost} of {images}" for lost, images, name in reported[:_NAMED])
        rest = f" and {len(reported) - _NAMED} more members" if len(reported) > _NAMED else ""
        return [f"recovered images that their own member does not recognise have no label: {named}{rest}"]

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "excluded": dict(self.excluded),
            "stalled": dict(self._stalled),
            "confirmed": {name: list(counts) for name, counts in self.confirmed.items()},
            "unconfirmed": dict(self._unconfirmed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.excluded, self._stalled = dict(state["excluded"]), dict(state["stalled"])
        self.confirmed = {name: (counts[0], counts[1]) for name, counts in state.get("confirmed", {}).items()}
        self._unconfirmed = dict(state.get("unconfirmed", {}))


def reason_of_zero_variances(member: Predicts) -> str | None:
    """Reason to exclude a member that has a batch-norm layer whose running variances are all zero; None for others."""
    layers = layers_without_variance(member.network) if isinstance(member, PretrainedClassifier) else []
    return f"all running variances of {', '.join(layers)} are zero; it is no teacher either" if layers else None


def _least_deviation(images: Tensor, labels: Tensor) -> float:
    """The smaller of two means: of the standard deviation within an image, and between the images of a class."""
    deviations = [images.flatten(1).std(dim=1).mean()]
    classes = [images[labels == label] for label in set(labels.tolist())]
    within_classes = [of_class.std(dim=0).mean() for of_class in classes if len(of_class) > 1]
    if within_classes:
        deviations.append(torch.stack(within_classes).mean())
    return min(value.item() for value in deviations)
