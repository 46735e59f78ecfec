"""Which recoveries went wrong, and which members are not worth another visit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.engine import Target
from dfml.inversion.loss import InversionLoss

_CONSTANT = 1e-3  # mean standard deviation of values in [0, 1]: a quarter of a grey level of 256


class FailureTracker:
    """Keeps the record of members whose recovery fails, so that a run can go on without them.

    A member is excluded at once when its loss or its images are not finite, its images are flat, or all of a class are
    the same; and after `patience` visits in a row that left the cross-entropy no lower than they found it, and worse
    than guessing.

    Args:
        patience: Such visits in a row.

    Attributes:
        excluded: What is wrong with the members that are not visited any more, by name.
    """

    def __init__(self, patience: int = 5) -> None:
        self.excluded: dict[str, str] = {}
        self._patience = patience
        self._stalled: dict[str, int] = {}

    def judge(
        self,
        target: Target,
        losses: Sequence[InversionLoss],
        images: Float[Tensor, "images 3 size size"],
    ) -> bool:
        """Whether a visit's images of one member can be used.

        Args:
            target: What was to be recovered.
            losses: Of this target, before each step; without any, only the images are judged.
            images: After the last step.
        """
        values = [loss.label.item() for loss in losses]
        if not all(map(math.isfinite, values)) or not bool(images.isfinite().all()):
            self.excluded[target.name] = "the generator diverged (its loss is not finite)"
            return False
        if _variety(images, target.labels) < _CONSTANT:
            self.excluded[target.name] = "the generator collapsed (images are flat, or all of a class the same)"
            return False
        stalled = len(values) > 1 and values[-1] >= values[0] and values[-1] > math.log(len(target.classifier.labels))
        self._stalled[target.name] = self._stalled.get(target.name, 0) + 1 if stalled else 0
        if self._stalled[target.name] >= self._patience:
            self.excluded[target.name] = (
                f"its cross-entropy has stopped falling (at {values[-1]:.2f}, worse than guessing, "
                f"after {self._patience} visits)"
            )
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"excluded": dict(self.excluded), "stalled": dict(self._stalled)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.excluded, self._stalled = dict(state["excluded"]), dict(state["stalled"])


def _variety(images: Tensor, labels: Tensor) -> float:
    """Mean standard deviation over the pixels of an image, or over the images of a class, whichever is smaller."""
    within = [images.flatten(1).std(dim=1).mean()]
    classes = [images[labels == label] for label in set(labels.tolist())]
    of_classes = [of_class.std(dim=0).mean() for of_class in classes if len(of_class) > 1]
    if of_classes:
        within.append(torch.stack(of_classes).mean())
    return min(value.item() for value in within)
