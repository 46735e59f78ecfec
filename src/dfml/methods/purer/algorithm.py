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
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.inversion.loss import InversionWeights, sample_view
from dfml.inversion.pixel_gradient import InversionGradient
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.classifier import strip
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import average_members
from dfml.methods.base import Method
from dfml.methods.purer.curriculum import GradientSwitch
from dfml.methods.purer.dynamic_dataset import DynamicDataset
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.device import require_memory
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.training.outer_loop import OuterLoop
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
    """Of the learner, from one meta-iteration to the next."""
    images_per_class: PositiveInt | None = None
    """In the dynamic dataset; None: shot + query."""
    pixel_lr: PositiveFloat = 0.25
    """Of the dynamic dataset's pixels."""
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

    @field_validator("inversion")
    @classmethod
    def _no_student(cls, weights: InversionWeights) -> InversionWeights:
        if weights.disagreement or weights.momentum:
            raise ValueError("PURER's images are made hard by its curriculum: disagreement and momentum must be 0")
        return weights


class PURER(Method):
    """Meta-training on a dynamic dataset that is inverted from the zoo while it is learned from."""

    name: ClassVar[str] = "purer"
    config_type: ClassVar[type[TrainingConfig]] = PurerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # From a random start one inner step learns very slowly (docs/results/first-light.md).
        "cpu": {"iterations": 3000, "warm_up": 1000, "learner": {"inner_steps": 5, "test_inner_steps": 10}}
    }
    config: PurerConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        if self.config.way > len(zoo.classes):
            raise UsageError(f"way {self.config.way} asks for more classes than the zoo knows ({len(zoo.classes)})")
        return PurerRun(self.config, zoo, device)


class PurerRun(TrainingRun):
    """State and meta-iteration of PURER (papers 1.9)."""

    def __init__(self, config: PurerConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
        preprocessing = zoo.preprocessing(config.img_size)
        blank = create_learner(
            config.learner, preprocessing, way=config.way, protocol=config.protocol, seed=config.seed, name=PURER.name
        ).to(device)
        self.outer = OuterLoop(
            blank,
            average_members(zoo, blank) if config.start == "average" else None,
            lr=config.outer_lr,
            statistics_momentum=config.statistics_momentum,
        )
        per_class, size = config.images_per_class or config.shot + config.query, preprocessing.size
        require_memory(
            4 * 4 * len(zoo.classes) * per_class * 3 * size * size,  # pixels, their gradient, two moments of Adam
            device,
            f"a dataset of {per_class} images (images_per_class) of each of {len(zoo.classes)} classes, "
            f"at {size} pixels a side (img_size),",
        )
        self.dataset = DynamicDataset(len(zoo.classes), per_class, preprocessing, config.seed, device)
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
        seed, weights = self.config.seed, self.config.inversion
        members = self._members(iteration)
        classes = [self.classes[member] for member in members]
        pixels = [self.dataset.pixels.detach()[rows] for rows in classes]
        views = [sample_view(weights, seeds.generator(seed, "shift", iteration, member)) for member in members]
        each = self.inversion_gradient(members, pixels, views)
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
        return self.outer.loss(self._episode("curriculum", iteration), second_order=second_order)

    def _learner_step(self, iteration: int) -> dict[str, float]:
        with torch.no_grad():
            episodes = [self._episode("episode", iteration, index) for index in range(self.config.episodes)]
        return self.outer.step(episodes)

    def _episode(self, *purpose: str | int) -> Episode:
        generator = seeds.generator(self.config.seed, *purpose)
        return self.dataset.episode(self.config.way, self.config.shot, self.config.query, generator)

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        return self.outer.learner()

    def state_dict(self) -> State:
        """See `TrainingRun.state`."""
        tensors = {"pixels": self.dataset.pixels, **optimiser_state_dict("pixel_optimiser", self.pixel_optimiser)}
        tensors |= {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        return State(tensors, {"switch": self.switch.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        with torch.no_grad():
            self.dataset.pixels.copy_(state.tensors["pixels"])
        load_optimiser_state_dict("pixel_optimiser", self.pixel_optimiser, state.tensors)
        self.outer.load_state_dict(strip(state.tensors, "outer."))
        self.switch.load_state_dict(state.values["switch"])
