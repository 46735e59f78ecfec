"""PURER: meta-learn on a dataset of pixels that is inverted from the members of a zoo at the same time.

Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning", CVPR 2023, arXiv 2303.11183. This
module is the meta-training, episode curriculum inversion (ECI): whenever the learner has stopped improving, the images
are made harder for it. Differences from the released code: the losses of the members are summed without weights (the
code weights member i of n by n - i + 1), members stay in memory, the learner starts from random weights by default, and
no test images are used. See also the row PURER of docs/papers.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError, ZooError
from dfml.inversion.pixel_gradient import InversionGradient
from dfml.inversion.views import sample_view
from dfml.learners import create_learner
from dfml.learners.classifier import select_prefix
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import average_members
from dfml.methods.base import Method
from dfml.methods.purer.config import RELEASED_WEIGHTS, PurerConfig
from dfml.methods.purer.curriculum import GradientSwitch
from dfml.methods.purer.dynamic_dataset import DynamicDataset
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.device import require_memory
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.metrics import describe_inversion_metrics
from dfml.training.outer_loop import OuterLoop
from dfml.zoo.members import unmet_need
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.zoo import Zoo


class PURER(Method):
    """Meta-training on a dynamic dataset that is inverted from the zoo at the same time (Hu et al., CVPR 2023)."""

    name: ClassVar[str] = "purer"
    config_type: ClassVar[type[TrainingConfig]] = PurerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released CIFAR-FS scripts, up to the differences that the module's docstring lists, and the calibration of
        # backbone and head that the paper has at test time.
        "released": {"inversion": RELEASED_WEIGHTS.model_dump(), "learner": {"calibration": {"head": 1.0}}},
        # With a random start, one inner step per episode learns very slowly (docs/results/log/2026-11-20.md).
        # Nor is there a calibration, which takes half a second per task.
        "cpu": {
            "iterations": 3000,
            "warm_up": 1000,
            "learner": {"inner_steps": 5, "test_inner_steps": 10, "calibration": None},
        },
    }
    config: PurerConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        return PurerRun(self.config, zoo, device)


class _Curriculum(NamedTuple):
    """Gradient of the outer loss of one episode with respect to all pixels, and that loss."""

    gradient: Tensor
    loss: float


class PurerRun(TrainingRun):
    """The state of PURER: dynamic dataset and learner with an optimiser each, and the Gradient Switch."""

    images_caption = "Images of PURER's dynamic dataset, optimised from Gaussian noise during the meta-training."

    def __init__(self, config: PurerConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
        reasons = {index: _unmet_need(zoo, index) for index in range(len(zoo))}
        self.members = [index for index, reason in reasons.items() if reason is None]
        self._messages = [f"{zoo.name(index)} is not inverted: {reason}" for index, reason in reasons.items() if reason]
        if not self.members:
            raise ZooError(
                f"{PURER.name} can invert none of the {len(zoo)} members of the zoo ({self._messages[0]}); use "
                "--method zoo_embedding"
            )
        active = sorted({index for member in self.members for index in zoo.classes.of_member[member]})
        if config.way > len(active):
            raise UsageError(
                f"way {config.way} is larger than the number of classes that can be inverted ({len(active)})"
            )
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
            f"of side length {size} pixels (img_size),",
        )
        self.dataset = DynamicDataset(len(zoo.classes), per_class, preprocessing, config.seed, device, active)
        self.pixel_optimiser = torch.optim.Adam([self.dataset.pixels], lr=config.pixel_lr)
        self.switch = GradientSwitch(config.warm_up, config.patience, enabled=config.curriculum_weight > 0)
        stacked = device.type == "cuda" if config.stacked is None else config.stacked
        # `InversionGradient` stacks every group of the zoo, so all members must have gradients.
        stacked = stacked and len(self.members) == len(zoo)
        self.inversion_gradient = InversionGradient(
            zoo, preprocessing, config.inversion, stacked=stacked, memory=int(config.inversion_memory * 2**30)
        )
        self.classes_of_member = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration of episode curriculum inversion (ECI), in the steps of the paper's algorithm.

        1. Episode inversion: the gradient of the members' inversion losses with respect to the pixels.
        2. Curriculum, if the Gradient Switch is on: minus the gradient of the outer loss of an episode.
        3. One step of Adam on the pixels of the dynamic dataset; see `PurerConfig.curriculum_update`.
        4. Meta-training: one outer step of the learner on episodes of the dynamic dataset.
        5. Feedback: the accuracy on these episodes sets the Gradient Switch.
        """
        start = time.perf_counter()
        gradient, metrics = self._inversion_gradient(iteration)
        curriculum = self._curriculum_gradient(iteration) if self.switch.take() else None
        if curriculum and self.config.curriculum_update == "adam":
            gradient.sub_(curriculum.gradient, alpha=self.config.curriculum_weight)
        self._update_pixels(gradient)
        if curriculum:
            if self.config.curriculum_update == "separate":
                self._make_harder(curriculum.gradient)
            metrics["switch_loss_before"] = curriculum.loss
            metrics["switch_loss_after"] = self._curriculum_loss(iteration, second_order=False).item()
        middle = time.perf_counter()
        metrics |= self._meta_train(iteration)
        self.switch.observe(iteration, metrics["accuracy"])
        return metrics | {"dataset_seconds": middle - start, "learner_seconds": time.perf_counter() - middle}

    def _inversion_gradient(self, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """Gradient of the sum of the sampled members' inversion losses with respect to all pixels, and two metrics.

        The metrics are means over these members without weights; `inversion_loss` is the cross-entropy alone.
        """
        seed, weights = self.config.seed, self.config.inversion
        members = self._sample_members(iteration)
        classes = [self.classes_of_member[member] for member in members]
        pixels = [self.dataset.pixels.detach()[rows] for rows in classes]
        views = [
            sample_view(
                weights,
                seeds.generator(seed, "shift", iteration, member),
                len(own.flatten(0, 1)),
                self.dataset.preprocessing.size,
            )
            for member, own in zip(members, pixels, strict=True)
        ]
        member_gradients = self.inversion_gradient(members, pixels, views)
        gradient = torch.zeros_like(self.dataset.pixels)
        for rows, member_gradient in zip(classes, member_gradients, strict=True):
            gradient.index_add_(0, rows, member_gradient.pixels)
        cross_entropy, distance = (
            torch.stack(parts).mean().item()
            for parts in zip(*((each.loss.label, each.loss.batch_norm) for each in member_gradients), strict=True)
        )
        return gradient, {"inversion_loss": cross_entropy, "batch_norm_distance": distance}

    def _sample_members(self, iteration: int) -> list[int]:
        count, most = len(self.members), self.config.members_per_step
        if count <= most:
            return self.members
        order = torch.randperm(count, generator=seeds.generator(self.config.seed, "members", iteration))
        return sorted(self.members[index] for index in order[:most].tolist())

    def _curriculum_gradient(self, iteration: int) -> _Curriculum:
        loss = self._curriculum_loss(iteration)
        (gradient,) = torch.autograd.grad(loss, self.dataset.pixels)
        return _Curriculum(gradient, loss.item())

    @torch.no_grad()
    def _make_harder(self, gradient: Tensor) -> None:
        """Step of the images of one episode along the gradient of its outer loss, which increases the loss."""
        of_episode = gradient[gradient.flatten(2).abs().amax(dim=2) > 0]  # images outside of the episode have none
        if len(of_episode):
            length = self.config.curriculum_weight * self.config.pixel_lr
            self.dataset.pixels.add_(gradient, alpha=length / float(of_episode.square().mean().sqrt()))

    def _curriculum_loss(self, iteration: int, *, second_order: bool = True) -> Tensor:
        """Outer loss of one episode; gradients reach its query images, and with `second_order` its support images."""
        return self.outer.loss(self._episode("curriculum", iteration), second_order=second_order)

    def _update_pixels(self, gradient: Tensor) -> None:
        self.dataset.pixels.grad = gradient
        self.pixel_optimiser.step()
        self.dataset.pixels.grad = None

    def _meta_train(self, iteration: int) -> dict[str, float]:
        """One outer step of the learner on the sum of the losses of several episodes."""
        with torch.no_grad():
            episodes = [self._episode("episode", iteration, index) for index in range(self.config.episodes)]
        return self.outer.step(episodes)

    def _episode(self, *purpose: str | int) -> Episode:
        generator = seeds.generator(self.config.seed, *purpose)
        return self.dataset.episode(self.config.way, self.config.shot, self.config.query, generator)

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        return self.outer.learner()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        messages, self._messages = self._messages, []
        return messages

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        outer = self.outer.describe_metrics()
        switch = MetricDescription(
            "Gradient Switch",
            "When the accuracy has stopped improving, the Gradient Switch makes the images of one episode harder: each "
            "arrow runs from the outer loss of that episode before the update of its images to the one after.",
            panel=outer["outer_loss"].panel,
            arrow_to="switch_loss_after",
        )
        return {
            "outer_loss": outer["outer_loss"],
            "switch_loss_before": switch,
            "accuracy": outer["accuracy"],
            **describe_inversion_metrics(),
        }

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """See `TrainingRun.images`; all images of the dynamic dataset are equally new."""
        if class_index not in self.dataset.active:
            return super().images(class_index, count)
        return self.dataset.images(class_index)[:count].detach().clamp(0.0, 1.0).cpu()

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        tensors = {"pixels": self.dataset.pixels, **optimiser_state_dict("pixel_optimiser", self.pixel_optimiser)}
        tensors |= {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        return State(tensors, {"switch": self.switch.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        with torch.no_grad():
            self.dataset.pixels.copy_(state.tensors["pixels"])
        load_optimiser_state_dict("pixel_optimiser", self.pixel_optimiser, state.tensors)
        self.outer.load_state_dict(select_prefix(state.tensors, "outer."))
        self.switch.load_state_dict(state.values["switch"])


def _unmet_need(zoo: Zoo, index: int) -> str | None:
    """See `unmet_need`; members of formats that always give gradients need not be loaded for this."""
    if zoo.has_network(index):
        return None
    return unmet_need(zoo[index], PretrainedClassifier, PURER.name)
