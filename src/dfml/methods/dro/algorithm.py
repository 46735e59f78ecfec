"""`dro`: meta-learning in weight space, after Wang et al. (UAI 2022). Only the abstract was available.

From the abstract of "Meta-Learning without Data via Wasserstein Distributionally-Robust Model Fusion": a network fuses
all members; it maps the embedding of a member's task to the member's weights. The embeddings are learned and, by
distributionally robust optimisation, diversified, to cover tasks that no member was trained on. For a new task, an
initialisation is sampled from the network and adapted. The rest are decisions of this implementation:

- *Network.* Weights are generated as mixtures of the members' weights (see `weight_generator.py`, which shows why this
  is no restriction).
- *Loss.* Squared distance to a member's weights in standard deviations, with the same weight for every tensor.
- *Robustness.* The loss is minimised for the worst-case perturbation of the embeddings within a 2-Wasserstein ball
  around the members' embeddings. The Lagrangian form with a fixed penalty (Sinha et al., ICLR 2018) does not work: it
  perturbs nothing where the penalty exceeds the curvature of the loss, and diverges elsewhere.
- *Heads.* They are not generated: output 3 of one member has nothing in common with output 3 of another, and a member
  with its own head adapts worse to new classes than with a head of zeros.
- *Sampling.* A random member's embedding with a random perturbation of the length of the ball's radius. After robust
  training, this initialisation is as good as the member's own; that of the mean embedding is far worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.errors import ZooError
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.classifier import select_prefix
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import member_backbones
from dfml.methods.base import Method
from dfml.methods.dro.weight_generator import MemberWeights, WeightGenerator, root_mean_square, worst_case_perturbations
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.schedules import half_cosine
from dfml.training.checkpoint import State
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class DROConfig(TrainingConfig):
    """Settings of `dro`, chosen on the validation classes of CIFAR-FS; those of Wang et al. were not available."""

    iterations: PositiveInt = 1000
    """Number of meta-iterations; each uses all members."""
    learner: LearnerConfig = LearnerConfig(inner_steps=10, test_inner_steps=10)
    """Learner, and how it adapts to a support set."""
    embedding_size: PositiveInt = 16
    """Dimension of the task embeddings."""
    hidden: PositiveInt = 128
    """Width of the hidden layers of the weight generator."""
    lr: PositiveFloat = 0.01
    """Highest learning rate of Adam for the weight generator and the embeddings; it falls to zero along a half
    cosine."""
    radius: NonNegativeFloat = 0.3
    """Radius of the Wasserstein ball of perturbed embeddings, where the root mean square length of the members'
    embeddings is 1; 0: no robust optimisation."""
    ascent_steps: PositiveInt = 3
    """Number of gradient ascent steps that search for the worst-case perturbation."""
    initialisation: Literal["ball", "member", "mean"] = "ball"
    """Embedding that the learner's weights are generated from. `ball`: that of a random member, with a random
    perturbation of length `radius`. `member`: the same without perturbation. `mean`: the mean of all members'."""


class DRO(Method):
    """A weight generator, robust to perturbed task embeddings (after Wang et al., UAI 2022); one architecture only."""

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
    """The state of `dro`: the weight generator with the task embeddings, and their optimiser."""

    def __init__(self, config: DROConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.device = config, device
        self.iterations = config.iterations
        self._preprocessing = zoo.preprocessing(config.img_size)
        self.weights = MemberWeights(member_backbones(zoo, self._blank(), DRO.name))
        if not bool(self.weights.gram.any()):
            raise ZooError(
                f"{DRO.name} learns the differences between members, but all members have the same weights "
                f"({len(zoo)} found); add members that were trained independently, or use --method average"
            )
        self.generator = WeightGenerator(len(zoo), config.embedding_size, config.hidden, config.seed, device)
        self._optimiser = torch.optim.Adam(self.generator.parameters.values(), lr=config.lr)

    def step(self, iteration: int) -> Mapping[str, float]:
        """One step of Adam on the loss at the worst-case perturbation of the embeddings."""
        embeddings = self.generator.embeddings()
        loss = self._losses(embeddings).mean()
        metrics = {"reconstruction_loss": loss.item()}
        if self.config.radius:
            perturbations = self._worst_case(embeddings.detach(), iteration)
            loss = self._losses(embeddings + perturbations).mean()
            metrics |= {"robust_loss": loss.item(), "perturbation": root_mean_square(perturbations).item()}
        leaves = list(self.generator.parameters.values())
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.lr * half_cosine((iteration - 1) / self.iterations)
        self._optimiser.step()
        return metrics

    def _losses(self, embeddings: Tensor) -> Tensor:
        return self.generator.losses(embeddings, self.weights.gram)

    def _worst_case(self, embeddings: Tensor, iteration: int) -> Tensor:
        """Perturbations of the embeddings that increase the loss most."""
        direction = torch.randn(embeddings.shape, generator=seeds.generator(self.config.seed, "move", iteration))
        return worst_case_perturbations(
            self._losses,
            embeddings,
            direction.to(embeddings),
            radius=self.config.radius,
            steps=self.config.ascent_steps,
        )

    @torch.no_grad()
    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`; the backbone is generated, and the head is the initial one."""
        learner = self._blank()
        learner.parameters |= self.weights.mix(self.generator.coefficients(self._initial_embedding()[None])[0])
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

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        return {
            "reconstruction_loss": MetricDescription(
                "reconstruction loss",
                "Reconstruction loss: squared distance of the generated weights to the members' weights; it is 1 for "
                "the mean of all members.",
                panel="losses",
                headline=True,
            ),
            "robust_loss": MetricDescription(
                "robust loss", "Robust loss: the same at the worst-case perturbed embeddings.", panel="losses"
            ),
            "perturbation": MetricDescription(
                "perturbation",
                "Root mean square length of the perturbations of the embeddings; at most the setting `radius`.",
                logarithmic=False,
            ),
        }

    def _blank(self) -> GradientLearner:
        """A learner with random weights."""
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
        """See `TrainingRun.state_dict`."""
        tensors = {f"generator.{name}": value for name, value in self.generator.parameters.items()}
        return State({**tensors, **optimiser_state_dict("optimiser", self._optimiser)})

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        for name, value in select_prefix(state.tensors, "generator.").items():
            self.generator.parameters[name].copy_(value)
        load_optimiser_state_dict("optimiser", self._optimiser, state.tensors)
