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

_LEAST_CONFIRMED = 0.05  # fraction of a round's images that a member must recognise, far below any usable one
_REPORTED_LOSS = 0.05  # fraction of a member's images
_NAMED = 5  # members that a message names
_CONSTANT = 1e-3  # mean standard deviation of values in [0, 1]: a quarter of a grey level of 256


class FailureTracker:
    """Records members whose inversion fails, so that a run can continue without them.

    A member is excluded at once if its cross-entropy or its images are not finite, its images are constant, or all
    images of a class are the same (standard deviation below 0.001, on average); and after `patience` rounds in a row in
    which the cross-entropy did not fall and ended above that of a uniform prediction, or in which the member recognised
    too few of its images (`count_confirmed`).

    Args:
        patience: Number of such rounds in a row.

    Attributes:
        excluded: Name of every excluded member -> what is wrong with it.
        confirmed: Name of every member -> numbers of its images that it recognised, and of all that were checked.
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
        """Return whether the images that a run recovered from one member can be used.

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
        """Count how many of a member's images it recognised in a round; exclude it if they are too few too often.

        Too few are fewer than 5%; and no more than one class in `classes`, which a member recognises that predicts the
        same class for every image, unless as many of the other members recognised no more of theirs so far: then the
        engine is at fault (a generator in its first rounds, for example).

        Args:
            name: Name of the member.
            confirmed: Number of images of the round that the member predicts as their label.
            images: Number of images of the round, equally many of every class.
            classes: Number of classes of these images; None: only the 5% count.
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
        """`confirmed`: fraction of all images checked so far that their own member recognised; empty before the first.

        See `count_confirmed`, which counts them.
        """
        total = sum(images for _, images in self.confirmed.values())
        return {"confirmed": sum(confirmed for confirmed, _ in self.confirmed.values()) / total} if total else {}

    def describe_losses(self) -> list[str]:
        """One line on the members that did not recognise over 5% of their images, worst first; empty without any."""
        counts = [(images - confirmed, images, name) for name, (confirmed, images) in self.confirmed.items()]
        lossy = sorted(
            (each for each in counts if each[0] > _REPORTED_LOSS * each[1]), key=lambda each: -each[0] / each[1]
        )
        if not lossy:
            return []
        named = ", ".join(f"{name} {lost} of {images}" for lost, images, name in lossy[:_NAMED])
        rest = f" and {len(lossy) - _NAMED} more members" if len(lossy) > _NAMED else ""
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
    """Why a member with a batch-norm layer whose running variances are all zero is broken; None for other members."""
    layers = layers_without_variance(member.network) if isinstance(member, PretrainedClassifier) else []
    return (
        f"all running variances of {', '.join(layers)} are zero; it is not asked about images either"
        if layers
        else None
    )


def _least_deviation(images: Tensor, labels: Tensor) -> float:
    """Mean standard deviation over the pixels of an image, or over the images of a class, whichever is smaller."""
    deviations = [images.flatten(1).std(dim=1).mean()]
    classes = [images[labels == label] for label in set(labels.tolist())]
    within_classes = [members.std(dim=0).mean() for members in classes if len(members) > 1]
    if within_classes:
        deviations.append(torch.stack(within_classes).mean())
    return min(value.item() for value in deviations)
