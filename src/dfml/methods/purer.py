"""PURER (Hu et al., CVPR 2023): meta-learn from images that the zoo's members are made to recall.

The curriculum (ECI) makes the images harder for the learner whenever it has stopped to improve. Differences to the
released code (papers 1.11): losses of members are summed without weights, members stay in memory, the start is random
unless asked otherwise, and nothing looks at test images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.inversion.gradient import InversionGradient
from dfml.inversion.objectives import InversionWeights, draw_shift
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.gradient import GradientLearner
from dfml.learners.network import Parameters, Statistics
from dfml.methods.average import average_members
from dfml.methods.base import Method
from dfml.tasks.curriculum import GradientSwitch
from dfml.tasks.dynamic_dataset import DynamicDataset
from dfml.training.checkpoint import State, optimiser_tensors, restore_optimiser
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class PurerConfig(TrainingConfig):
    """Settings of PURER; defaults are those of the released CIFAR-FS scripts (papers 1.8), with a random start."""

    learner: LearnerConfig = LearnerConfig()
    start: Literal["random", "average"] = "random"
    """`average`: the mean of the members' weights, as released; only where all members share the architecture."""
    img_size: PositiveInt | None = None
    """Pixels a side; None: the members' most common size."""
    episodes: PositiveInt = 4
    """Episodes a meta-iteration; their losses are summed."""
    outer_lr: PositiveFloat = 0.001
    images_per_class: PositiveInt | None = None
    """In the dynamic dataset; None: shot + query."""
    pixel_lr: PositiveFloat = 0.25
    inversion: InversionWeights = InversionWeights()
    members_per_step: PositiveInt = 13
    """Members in a step of the dynamic dataset; drawn at random from a larger zoo."""
    stacked: bool | None = None
    """Evaluate members of one architecture in one call; None: on a GPU only, where that is faster."""
    curriculum_weight: NonNegativeFloat = 10.0
    """Lambda of the reversed outer loss; 0: episode inversion (EI) without curriculum."""
    warm_up: PositiveInt = 4000
    """Meta-iterations before the switch may fire."""
    patience: PositiveInt = 6
    """Meta-iterations without improvement that fire the switch."""
    statistics_momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Of the moving average of support statistics (used by `learner.statistics_shrinkage`)."""


class PURER(Method):
    """Meta-training on a dynamic dataset that is inverted from the zoo while it is learned from."""

    name: ClassVar[str] = "purer"
    config_type: ClassVar[type[TrainingConfig]] = PurerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {"iterations": 3000, "warm_up": 1000}}
    config: PurerConfig

    def begin(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.begin`."""
        if self.config.way > len(zoo.classes):
            raise UsageError(f"way {self.config.way} asks for more classes than the zoo knows ({len(zoo.classes)})")
        return PurerRun(self.config, zoo, device)


class PurerRun(TrainingRun):
    """State and meta-iteration of PURER (papers 1.9)."""

    def __init__(self, config: PurerConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
        preprocessing = zoo.preprocessing(config.img_size)
        self.blank = create_learner(
            config.learner, preprocessing, way=config.way, protocol=config.protocol, seed=config.seed, name="purer"
        ).to(device)
        start = average_members(zoo, self.blank) if config.start == "average" else self.blank.parameters
        self.parameters: Parameters = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
        self.stored: Statistics = self.blank.stored
        per_class = config.images_per_class or config.shot + config.query
        self.dataset = DynamicDataset(len(zoo.classes), per_class, preprocessing, config.seed, device)
        self.outer_optimiser = torch.optim.Adam(self.parameters.values(), lr=config.outer_lr)
        self.pixel_optimiser = torch.optim.Adam([self.dataset.pixels], lr=config.pixel_lr)
        self.switch = GradientSwitch(config.warm_up, config.patience, enabled=config.curriculum_weight > 0)
        stacked = device.type == "cuda" if config.stacked is None else config.stacked
        self.inversion_gradient = InversionGradient(zoo, preprocessing, config.inversion, stacked=stacked)
        self.classes = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]

    def step(self, iteration: int) -> Mapping[str, float]:
        """One step of the dynamic dataset, then one of the learner."""
        began = time.perf_counter()
        metrics = self._dataset_step(iteration)
        between = time.perf_counter()
        metrics |= self._learner_step(iteration)
        metrics |= {"dataset_seconds": between - began, "learner_seconds": time.perf_counter() - between}
        self.switch.observe(iteration, metrics["accuracy"])
        return metrics

    def _dataset_step(self, iteration: int) -> dict[str, float]:
        gradient, metrics = self._inversion_gradient(iteration)
        adversarial = self.switch.take()
        if adversarial:
            before = self._curriculum_loss(iteration)
            (of_outer_loss,) = torch.autograd.grad(before, self.dataset.pixels)
            gradient.sub_(of_outer_loss, alpha=self.config.curriculum_weight)
        self.dataset.pixels.grad = gradient
        self.pixel_optimiser.step()
        self.dataset.pixels.grad = None
        if adversarial:
            after = self._curriculum_loss(iteration, second_order=False)
            metrics |= {"switch_loss_before": before.item(), "switch_loss_after": after.item()}
        return metrics

    def _inversion_gradient(self, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """Gradient of the plain sum of the members' inversion losses (papers 1.2)."""
        seed, jitter = self.config.seed, self.config.inversion.jitter
        members = self._members(iteration)
        classes = [self.classes[member] for member in members]
        pixels = [self.dataset.pixels.detach()[rows] for rows in classes]
        shifts = [draw_shift(jitter, seeds.generator(seed, "shift", iteration, member)) for member in members]
        each = self.inversion_gradient(members, pixels, shifts)
        gradient = torch.zeros_like(self.dataset.pixels)
        for rows, of_member in zip(classes, each, strict=True):
            gradient.index_add_(0, rows, of_member.pixels)
        label, distance = (
            torch.stack(parts).mean().item()
            for parts in zip(*((found.loss.label, found.loss.batch_norm) for found in each), strict=True)
        )
        return gradient, {"inversion_loss": label, "batch_norm_distance": distance}

    def _members(self, iteration: int) -> list[int]:
        count, most = len(self.zoo), self.config.members_per_step
        if count <= most:
            return list(range(count))
        draw = torch.randperm(count, generator=seeds.generator(self.config.seed, "members", iteration))
        return sorted(draw[:most].tolist())

    def _curriculum_loss(self, iteration: int, *, second_order: bool = True) -> Tensor:
        """The outer loss of one pseudo-episode, attached to the pixels of support and query (papers 1.5)."""
        generator = seeds.generator(self.config.seed, "curriculum", iteration)
        episode = self.dataset.episode(self.config.way, self.config.shot, self.config.query, generator)
        return self.blank.episode_loss(self.parameters, self.stored, episode, second_order=second_order).loss

    def _learner_step(self, iteration: int) -> dict[str, float]:
        leaves = list(self.parameters.values())
        gradients = [torch.zeros_like(value) for value in leaves]
        losses, accuracies, seen = [], [], []
        for index in range(self.config.episodes):
            generator = seeds.generator(self.config.seed, "episode", iteration, index)
            with torch.no_grad():
                episode = self.dataset.episode(self.config.way, self.config.shot, self.config.query, generator)
            outcome = self.blank.episode_loss(self.parameters, self.stored, episode)
            of_episode = torch.autograd.grad(outcome.loss, leaves, materialize_grads=True, allow_unused=True)
            torch._foreach_add_(gradients, of_episode)
            losses.append(outcome.loss.item())
            accuracies.append(outcome.accuracy.item())
            seen.append(outcome.statistics)
        for value, gradient in zip(leaves, gradients, strict=True):
            value.grad = gradient
        self.outer_optimiser.step()
        self._remember(seen, max(self.config.statistics_momentum, 1.0 / iteration))
        return {"outer_loss": sum(losses) / len(losses), "accuracy": sum(accuracies) / len(accuracies)}

    def _remember(self, seen: list[Statistics], momentum: float) -> None:
        self.stored = {
            name: torch.lerp(value, torch.stack([statistics[name] for statistics in seen]).mean(0), momentum)
            for name, value in self.stored.items()
        }

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        config = self.config
        learner = create_learner(
            config.learner, self.dataset.preprocessing, way=config.way, protocol=config.protocol, name=PURER.name
        )
        learner.parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        learner.stored = dict(self.stored)
        learner.device = self.device
        return learner

    def state(self) -> State:
        """See `TrainingRun.state`."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"stored.{name}": value for name, value in self.stored.items()}
        tensors |= {"pixels": self.dataset.pixels}
        tensors |= optimiser_tensors("outer_optimiser", self.outer_optimiser)
        tensors |= optimiser_tensors("pixel_optimiser", self.pixel_optimiser)
        return State(tensors, {"switch": self.switch.state()})

    def restore(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state.tensors[f"parameters.{name}"])
            self.dataset.pixels.copy_(state.tensors["pixels"])
        self.stored = {name: state.tensors[f"stored.{name}"] for name in self.stored}
        restore_optimiser("outer_optimiser", self.outer_optimiser, state.tensors)
        restore_optimiser("pixel_optimiser", self.pixel_optimiser, state.tensors)
        self.switch.restore(state.values["switch"])
