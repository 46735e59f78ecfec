"""The Gradient Switch of PURER's episode curriculum inversion: it decides when episodes are made harder."""

from __future__ import annotations

from typing import Any


class GradientSwitch:
    """A switch that is on for one step of the dynamic dataset after the meta-learner has stopped improving.

    The paper's "positive feedback" is implemented as in the released code: the accuracy on the query images of
    synthetic episodes has not exceeded its best value for `patience` meta-iterations in a row. The switch turns on for
    the first time at the end of the warm-up.

    Args:
        warm_up: Number of meta-iterations without curriculum.
        patience: Number of meta-iterations in a row without improvement that turn the switch on.
        enabled: False keeps the switch off.
    """

    def __init__(self, warm_up: int, patience: int, *, enabled: bool = True) -> None:
        self._warm_up = warm_up
        self._patience = patience
        self._enabled = enabled
        self._on = False
        self._best: float | None = None
        self._stagnant = 0

    def take(self) -> bool:
        """Return whether the switch is on, and turn it off."""
        on, self._on = self._on, False
        return on

    def observe(self, iteration: int, accuracy: float) -> None:
        """Take a meta-iteration's feedback, which may turn the switch on.

        Args:
            iteration: Number of the meta-iteration, counted from 1.
            accuracy: Accuracy on its query images, in [0, 1].
        """
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
        """State as plain values, for a checkpoint."""
        return {"on": self._on, "best": self._best, "stagnant": self._stagnant}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; a switch that is not enabled stays off in any case."""
        self._on = state["on"] and self._enabled
        self._best, self._stagnant = state["best"], state["stagnant"]
