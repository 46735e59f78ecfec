"""The outer loop of MAML-like meta-learning, shared by PURER and FREE: one Adam step per batch of episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters, Statistics
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.loop import MetricDescription


class OuterLoop:
    """The meta-learned weights during training, and the outer step that updates them (MAML, outer loop).

    Args:
        blank: Learner whose way of adapting is meta-trained; its own weights are not changed.
        start: Initial weights; None: those of `blank`.
        lr: Learning rate of Adam.
        statistics_momentum: Weight of a new batch of episodes in the moving average of batch-norm statistics of support
            sets, in (0, 1].

    Attributes:
        parameters: The meta-learned weights: leaf tensors that require gradients.
        running_statistics: The meta-learned batch-norm statistics, a moving average over support sets.
        updates: Number of outer steps so far.
    """

    def __init__(
        self, blank: GradientLearner, start: Parameters | None = None, *, lr: float, statistics_momentum: float
    ) -> None:
        self.blank = blank
        self.parameters: Parameters = {
            name: value.detach().clone().requires_grad_() for name, value in (start or blank.parameters).items()
        }
        self.running_statistics: Statistics = blank.running_statistics
        self.updates = 0
        self._momentum = statistics_momentum
        self._optimiser = torch.optim.Adam(self.parameters.values(), lr=lr)

    def loss(self, episode: Episode, *, second_order: bool | None = None) -> Tensor:
        """Outer loss of one episode at the current weights; see `GradientLearner.episode_loss`.

        Args:
            episode: The episode; gradients reach its images if they require them.
            second_order: Differentiate through the inner loop; None: as the learner's settings say.
        """
        return self.blank.episode_loss(
            self.parameters, self.running_statistics, episode, second_order=second_order
        ).loss

    def step(self, episodes: Iterable[Episode]) -> dict[str, float]:
        """One step of Adam on the sum of the episodes' outer losses.

        Returns:
            `outer_loss` and `accuracy` on the query images: means over the episodes, before the step.
        """
        leaves = list(self.parameters.values())
        gradients = [torch.zeros_like(value) for value in leaves]
        losses, accuracies, statistics = [], [], []
        for episode in episodes:
            outcome = self.blank.episode_loss(self.parameters, self.running_statistics, episode)
            episode_gradients = torch.autograd.grad(outcome.loss, leaves, materialize_grads=True, allow_unused=True)
            torch._foreach_add_(gradients, episode_gradients)
            losses.append(outcome.loss.item())
            accuracies.append(outcome.accuracy.item())
            statistics.append(outcome.statistics)
        for value, gradient in zip(leaves, gradients, strict=True):
            value.grad = gradient
        self._optimiser.step()
        self.updates += 1
        self._average_statistics(statistics, max(self._momentum, 1.0 / self.updates))
        return {"outer_loss": sum(losses) / len(losses), "accuracy": sum(accuracies) / len(accuracies)}

    def _average_statistics(self, statistics: list[Statistics], momentum: float) -> None:
        self.running_statistics = {
            name: torch.lerp(value, torch.stack([each[name] for each in statistics]).mean(0), momentum)
            for name, value in self.running_statistics.items()
        }

    @staticmethod
    def describe_metrics() -> dict[str, MetricDescription]:
        """Descriptions of the metrics that `step` returns; see `TrainingRun.describe_metrics`."""
        return {
            "outer_loss": MetricDescription(
                "outer loss",
                "Outer loss: cross-entropy of the learner on the query images of synthetic episodes, after adaptation.",
                panel="losses",
                headline=True,
            ),
            "accuracy": MetricDescription(
                "accuracy",
                "Accuracy of the learner on these query images.",
                percent=True,
                headline=True,
            ),
        }

    def learner(self) -> GradientLearner:
        """A learner with the weights so far; shares no memory with the loop."""
        blank = self.blank
        learner = type(blank)(
            blank.config, blank.preprocessing, way=blank.way, protocol=blank.protocol, name=blank.name
        )
        learner.parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        learner.running_statistics = dict(self.running_statistics)
        learner.device = blank.device
        return learner

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, not copied, for a checkpoint."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"stored.{name}": value for name, value in self.running_statistics.items()}
        return {**tensors, "updates": torch.tensor(self.updates), **optimiser_state_dict("optimiser", self._optimiser)}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned."""
        for name, value in self.parameters.items():
            value.copy_(tensors[f"parameters.{name}"])
        self.running_statistics = {name: tensors[f"stored.{name}"] for name in self.running_statistics}
        self.updates = int(tensors["updates"])
        load_optimiser_state_dict("optimiser", self._optimiser, tensors)
