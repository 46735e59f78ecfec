"""`dro`: meta-learning in the space of weights, after Wang et al. (UAI 2022). Our reading: all we have is the abstract.

From the abstract ("Meta-Learning without Data via Wasserstein Distributionally-Robust Model Fusion"): one black-box
network fuses all members, an embedding of a member's task goes in and its weights come out; the embeddings are learned,
and diversified by distributionally robust optimisation, so that tasks which no member has seen are covered; for a new
task, an initialisation is sampled from the network and adapted. All the rest is decided here:

- *Network.* Weights are generated as mixtures of the members' (`weight_generator.py` says why that loses nothing).
- *Loss.* Squared distance to a member's weights, in standard deviations, every tensor counted alike.
- *Robustness.* The loss is minimised for embeddings moved to where it is worst, within a 2-Wasserstein ball around the
  members' embeddings. The Lagrangian form with a fixed penalty (Sinha et al. 2018) was tried first: it moves nothing
  where the penalty exceeds the curvature of the loss, and runs away where it does not.
- *Heads.* They are not generated: output 3 of one member has nothing in common with output 3 of another, and a member
  that keeps its own head adapts worse to new classes than with a head of zeros.
- *Sampling.* A member's embedding, drawn at random and moved at random by the ball's radius. Robust training makes that
  as good a start as the member's embedding itself; that of the mean embedding is far worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.errors import ZooError
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.classifier import strip
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import member_backbones
from dfml.methods.base import Method
from dfml.methods.dro.weight_generator import MemberWeights, WeightGenerator, root_mean_square, worst_moves
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class DROConfig(TrainingConfig):
    """Settings of `dro`, chosen on the validation classes of CIFAR-FS; those of Wang et al. are unknown to us."""

    iterations: PositiveInt = 1000
    """Meta-iterations; each sees all members."""
    learner: LearnerConfig = LearnerConfig(inner_steps=10, test_inner_steps=10)
    embedding_size: PositiveInt = 16
    """Numbers in a task embedding."""
    hidden: PositiveInt = 128
    """Units of a hidden layer of the weight generator."""
    lr: PositiveFloat = 0.01
    """Of Adam, for generator and embeddings; falls to zero along a half cosine."""
    radius: NonNegativeFloat = 0.3
    """Of the Wasserstein ball that embeddings are moved in; the members' embeddings have a root mean square length of
    1. 0: no robust optimisation."""
    ascent_steps: PositiveInt = 3
    """Of the search for the worst embeddings in the ball."""
    initialisation: Literal["ball", "member", "mean"] = "ball"
    """The embedding that the learner's weights are generated from: one of the members' at random, moved at random by
    `radius`; the same, not moved; or the mean of all."""


class DRO(Method):
    """A generator of weights, robust to the task embedding; one architecture only."""

    name: ClassVar[str] = "dro"
    config_type: ClassVar[type[TrainingConfig]] = DROConfig
    config: DROConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`.

        Raises:
            ZooError: If a member's architecture is not the learner's backbone, or all members are the same.
        """
        return DRORun(self.config, zoo, device)


class DRORun(TrainingRun):
    """The generator, its embeddings, and one step on both."""

    def __init__(self, config: DROConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.device = config, device
        self.iterations = config.iterations
        self._preprocessing = zoo.preprocessing()
        self.weights = MemberWeights(member_backbones(zoo, self._blank(), DRO.name))
        if not bool(self.weights.gram.any()):
            raise ZooError(
                f"{DRO.name} learns what members differ in, but the {len(zoo)} found have the same weights; "
                "add members that were trained apart, or use --method average"
            )
        self.generator = WeightGenerator(len(zoo), config.embedding_size, config.hidden, config.seed, device)
        self._optimiser = torch.optim.Adam(self.generator.parameters.values(), lr=config.lr)

    def step(self, iteration: int) -> Mapping[str, float]:
        """Move the embeddings to where the loss is worst, and make it smaller there."""
        embeddings = self.generator.embeddings()
        loss = self._losses(embeddings).mean()
        metrics = {"reconstruction_loss": loss.item()}
        if self.config.radius:
            moves = self._moves(embeddings.detach(), iteration)
            loss = self._losses(embeddings + moves).mean()
            metrics |= {"robust_loss": loss.item(), "perturbation": root_mean_square(moves).item()}
        leaves = list(self.generator.parameters.values())
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * (iteration - 1) / self.iterations))
        self._optimiser.step()
        return metrics

    def _losses(self, embeddings: Tensor) -> Tensor:
        return self.generator.losses(embeddings, self.weights.gram)

    def _moves(self, embeddings: Tensor, iteration: int) -> Tensor:
        draw = torch.randn(embeddings.shape, generator=seeds.generator(self.config.seed, "move", iteration))
        return worst_moves(
            self._losses, embeddings, draw.to(embeddings), radius=self.config.radius, steps=self.config.ascent_steps
        )

    @torch.no_grad()
    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`; the backbone is generated, the head is as `config.learner` starts it."""
        learner = self._blank()
        learner.parameters |= self.weights.mix(self.generator.shares(self._initial_embedding()[None])[0])
        return learner

    def _initial_embedding(self) -> Tensor:
        embeddings = self.generator.embeddings()
        if self.config.initialisation == "mean":
            return embeddings.mean(dim=0)
        generator = seeds.generator(self.config.seed, "initialisation")
        member = int(torch.randint(len(embeddings), (), generator=generator))
        direction = torch.randn(embeddings.shape[1], generator=generator).to(embeddings)
        radius = self.config.radius if self.config.initialisation == "ball" else 0.0
        sampled: Tensor = embeddings[member] + direction * (radius / direction.norm())
        return sampled

    def _blank(self) -> GradientLearner:
        config = self.config
        return create_learner(
            config.learner,
            self._preprocessing,
            way=config.way,
            protocol=config.protocol,
            seed=config.seed,
            name=DRO.name,
        ).to(self.device)

    def state_dict(self) -> State:
        """See `TrainingRun.state`."""
        tensors = {f"generator.{name}": value for name, value in self.generator.parameters.items()}
        return State({**tensors, **optimiser_state_dict("optimiser", self._optimiser)})

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        for name, value in strip(state.tensors, "generator.").items():
            self.generator.parameters[name].copy_(value)
        load_optimiser_state_dict("optimiser", self._optimiser, state.tensors)
