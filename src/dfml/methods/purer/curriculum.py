"""The Gradient Switch of PURER's episode curriculum inversion (papers 1.5): when to ask for harder episodes."""

from __future__ import annotations

from typing import Any


class GradientSwitch:
    """On for one step of the dynamic dataset after the meta-learner has stopped to improve.

    "Positive feedback" is read as the released code has it: the accuracy on pseudo-queries has not exceeded its best
    for `patience` meta-iterations in a row. The first time, it fires at the end of the warm-up.

    Args:
        warm_up: Meta-iterations without curriculum.
        patience: Meta-iterations without improvement that turn the switch on.
        enabled: False: it never fires.
    """

    def __init__(self, warm_up: int, patience: int, *, enabled: bool = True) -> None:
        self._warm_up = warm_up
        self._patience = patience
        self._enabled = enabled
        self._on = False
        self._best: float | None = None
        self._stagnant = 0

    def take(self) -> bool:
        """Whether the coming step of the dynamic dataset is adversarial; turns the switch off."""
        on, self._on = self._on, False
        return on

    def observe(self, iteration: int, accuracy: float) -> None:
        """Tell the accuracy on this meta-iteration's pseudo-queries; iterations count from 1."""
        if not self._enabled or iteration < self._warm_up:
            return
        if iteration == self._warm_up:
            self._on = True
        elif self._best is None or accuracy > self._best:
            self._best, self._stagnant = accuracy, 0
        else:
            self._stagnant += 1
            if self._stagnant == self._patience:
                self._on, self._best, self._stagnant = True, None, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"on": self._on, "best": self._best, "stagnant": self._stagnant}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; a switch that is not enabled stays off whatever the state says."""
        self._on = state["on"] and self._enabled
        self._best, self._stagnant = state["best"], state["stagnant"]
