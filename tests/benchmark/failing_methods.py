"""A method from outside of dfml that fails after it was started."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import torch

from dfml.errors import RunError
from dfml.methods.random_init import RandomInit
from dfml.training.loop import TrainingRun
from dfml.zoo.zoo import Zoo


class Failing(RandomInit):
    """Fails when the learner is wanted, with an error that a user can fix."""

    name: ClassVar[str] = "failing"

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        return _Run(super().start(zoo, device), RunError("the disk is\nfull"))


class Crashing(RandomInit):
    """Its process is killed when the learner is wanted."""

    name: ClassVar[str] = "crashing"

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        return _Run(super().start(zoo, device), None)


class _Run(TrainingRun):
    def __init__(self, run: TrainingRun, error: Exception | None) -> None:
        self._error = error

    def learner(self) -> object:  # type: ignore[override]
        if self._error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self._error  # type: ignore[misc]
