"""The outer loop (papers 1.4): episodes in, one step of the meta-learned weights out. PURER and FREE share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters, Statistics
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict


class OuterLoop:
    """Meta-learned weights on their way.

    Args:
        blank: A learner that says how to adapt; its own weights are not changed.
        start: The first weights; None: those of `blank`.
        lr: Of Adam.
        statistics_momentum: Of the moving average of support statistics (used by `learner.statistics_shrinkage`).

    Attributes:
        parameters: theta, leaves that take gradients.
        stored: The meta-learned batch-norm statistics.
        updates: Steps so far.
    """

    def __init__(
        self, blank: GradientLearner, start: Parameters | None = None, *, lr: float, statistics_momentum: float
    ) -> None:
        self.blank = blank
        self.parameters: Parameters = {
            name: value.detach().clone().requires_grad_() for name, value in (start or blank.parameters).items()
        }
        self.stored: Statistics = blank.stored
        self.updates = 0
        self._momentum = statistics_momentum
        self._optimiser = torch.optim.Adam(self.parameters.values(), lr=lr)

    def loss(self, episode: Episode, *, second_order: bool | None = None) -> Tensor:
        """The outer loss of one episode at the current weights; see `GradientLearner.episode_loss`."""
        return self.blank.episode_loss(self.parameters, self.stored, episode, second_order=second_order).loss

    def step(self, episodes: Iterable[Episode]) -> dict[str, float]:
        """One step of Adam on the sum of the episodes' outer losses; returns mean loss and accuracy before it."""
        leaves = list(self.parameters.values())
        gradients = [torch.zeros_like(value) for value in leaves]
        losses, accuracies, seen = [], [], []
        for episode in episodes:
            outcome = self.blank.episode_loss(self.parameters, self.stored, episode)
            of_episode = torch.autograd.grad(outcome.loss, leaves, materialize_grads=True, allow_unused=True)
            torch._foreach_add_(gradients, of_episode)
            losses.append(outcome.loss.item())
            accuracies.append(outcome.accuracy.item())
            seen.append(outcome.statistics)
        for value, gradient in zip(leaves, gradients, strict=True):
            value.grad = gradient
        self._optimiser.step()
        self.updates += 1
        self._remember(seen, max(self._momentum, 1.0 / self.updates))
        return {"outer_loss": sum(losses) / len(losses), "accuracy": sum(accuracies) / len(accuracies)}

    def _remember(self, seen: list[Statistics], momentum: float) -> None:
        self.stored = {
            name: torch.lerp(value, torch.stack([statistics[name] for statistics in seen]).mean(0), momentum)
            for name, value in self.stored.items()
        }

    def learner(self) -> GradientLearner:
        """The learner as it stands; shares no memory with the loop."""
        blank = self.blank
        learner = type(blank)(
            blank.config, blank.preprocessing, way=blank.way, protocol=blank.protocol, name=blank.name
        )
        learner.parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        learner.stored = dict(self.stored)
        learner.device = blank.device
        return learner

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"stored.{name}": value for name, value in self.stored.items()}
        return {**tensors, "updates": torch.tensor(self.updates), **optimiser_state_dict("optimiser", self._optimiser)}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, value in self.parameters.items():
            value.copy_(tensors[f"parameters.{name}"])
        self.stored = {name: tensors[f"stored.{name}"] for name in self.stored}
        self.updates = int(tensors["updates"])
        load_optimiser_state_dict("optimiser", self._optimiser, tensors)
