"""FREE: recover a task from each member of a zoo in a few steps, and distil the members with aligned gradients.

Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024, arXiv 2405.00984. A meta-iteration:

1. FIVE (faster inversion via meta-generator): copies of one generator take a few steps on a few members each; the
   members' images go into the task memory.
2. BELL (better generalisation via meta-learner), distillation: the members are distilled into the learner one after the
   other, which aligns their gradients (`alignment.py`).
3. BELL, replay: the learner is meta-trained on tasks from the memory, which mix the classes of all members so far.

Differences from the released code: the images of every member are kept (the code keeps those of the last one only);
divergences are true KL divergences; the optimisers' state lasts for the whole run; no test images are used; the
distillation has a head and an Adam of its own; the disagreement reaches the images through the learner too; shifted
images are padded with the mean colour instead of black. See also the row FREE of docs/papers.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.images import to_bytes, to_float
from dfml.inversion.agreement import CrossMemberAgreement
from dfml.inversion.image_source import ImageSource
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import LearnedEngine
from dfml.inversion.views import AnyView, sample_view
from dfml.learners import create_learner
from dfml.learners.classifier import select_prefix
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.methods.base import Method
from dfml.methods.free.alignment import MemberLoss, joint, mean_cosine, member_gradients, sequential
from dfml.methods.free.config import FreeConfig
from dfml.methods.free.distillation import Distillation
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.device import require_memory
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.metrics import describe_inversion_metrics
from dfml.training.outer_loop import OuterLoop
from dfml.training.task_memory import TaskMemory
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo

VIEW = InversionWeights(jitter=4, wrap=False, flip=True)
"""Random shift and mirroring of the images for the distillation."""

JUDGES = 3
"""Number of other members with the same classes that classify the images recovered from a member."""


class FREE(Method):
    """Meta-training on tasks that a meta-learned generator recovers from the members (Wei et al., CVPR 2024)."""

    name: ClassVar[str] = "free"
    config_type: ClassVar[type[TrainingConfig]] = FreeConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released code, up to the differences that the module's docstring lists.
        "released": {"inversion": {"confirmed_only": False}},
        # Chosen on the validation classes of CIFAR-FS and on letters (docs/results/log/2026-11-20.md).
        "cpu": {
            "iterations": 200,
            "inversion": {
                "five": {
                    "width": 32,
                    "lr": 0.003,
                    "latent_lr": 0.01,
                    "outer_lr": 0.003,
                    "weights": {"batch_norm": 0.03},
                }
            },
            "replay": "fixed",
            "replay_steps": 8,
            "replay_tasks": 4,
            "snapshot_every": 20,
            "checkpoint_every": 20,
        },
    }
    config: FreeConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        config = self.config
        if config.way > len(zoo.classes):
            raise UsageError(f"way {config.way} is larger than the number of classes of the zoo ({len(zoo.classes)})")
        if 0 < config.iterations <= config.warm_up:
            raise UsageError(
                f"iterations {config.iterations} end within the warm_up of {config.warm_up}, which trains no learner; "
                "choose more iterations or a shorter warm_up"
            )
        if config.memory < config.shot + config.query:
            raise UsageError(
                f"memory {config.memory} holds fewer images of a class than a task needs "
                f"({config.shot} shot + {config.query} query); choose a larger one"
            )
        size = zoo.preprocessing(config.img_size).size
        require_memory(
            len(zoo.classes) * config.memory * 3 * size * size,
            device,
            f"memory {config.memory} for each of {len(zoo.classes)} classes, of side length {size} pixels (img_size),",
        )
        return FreeRun(config, zoo, device)


class FreeRun(TrainingRun):
    """The state of FREE: inversion engine, task memory, distillation, learner."""

    images_caption = "Newest images in FREE's task memory, recovered from the members during the meta-training."

    def __init__(self, config: FreeConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
        self._messages: list[str] = []
        self.preprocessing = zoo.preprocessing(config.img_size)
        blank = create_learner(
            config.learner,
            self.preprocessing,
            way=config.way,
            protocol=config.protocol,
            seed=config.seed,
            name=FREE.name,
        ).to(device)
        self.outer = OuterLoop(blank, lr=config.outer_lr, statistics_momentum=config.statistics_momentum)
        self.memory = TaskMemory(len(zoo.classes), config.memory, self.preprocessing.size, device)
        self.agreement = CrossMemberAgreement(zoo)
        self.classes = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]
        self.distillation = Distillation(
            blank,
            _backbone(self.outer.parameters),
            zoo.classes.of_member,
            rule=config.distillation_head,
            temperature=config.temperature,
            seed=config.seed,
        )
        self.distillation_optimiser = torch.optim.Adam(self.distillation.parameters.values(), lr=config.outer_lr)
        self.source = ImageSource(
            config.inversion,
            zoo,
            self.preprocessing,
            patience=config.patience,
            rows=self.distillation.rows,
            seed=config.seed,
            device=device,
        )

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration in the steps of the paper's algorithm: FIVE, task memory, BELL (distillation, replay)."""
        start = time.perf_counter()
        recovered, metrics = self._five(iteration)
        metrics["recovery_seconds"] = time.perf_counter() - start
        if iteration <= self.config.warm_up:
            return metrics
        self._store(recovered, iteration)
        metrics |= self.source.failures.confirmation_metrics()
        if recovered and self.config.alignment != "none":
            metrics |= self._bell_distillation(recovered, iteration)
        metrics["alignment_seconds"] = time.perf_counter() - start - metrics["recovery_seconds"]
        if iteration == self.iterations:
            self._messages = [*self.source.failures.describe_unrecognised(), *self.agreement.warnings()]
        if self.config.replay != "none":
            replay_start = time.perf_counter()
            metrics |= self._bell_replay(iteration)
            metrics["replay_seconds"] = time.perf_counter() - replay_start
        return metrics

    def _five(self, iteration: int) -> tuple[dict[int, RecoveredImages], dict[str, float]]:
        """FIVE: recover images from some members, and update the meta-generator.

        Returns:
            Images by member, of the members whose inversion succeeded, and the mean losses.
        """
        # Without distillation nothing trains the distillation head, so its predictions mean nothing.
        trained = iteration > self.config.warm_up and self.config.alignment != "none"
        recovered = self.source.recover(
            self.source.sample_members(iteration, self.config.members_per_step),
            self.config.images_per_class,
            iteration,
            student=self.distillation.student_logits if trained else None,
            learner_weights=self.distillation.parameters.values(),
        )
        return recovered, dict(self.source.last_metrics)

    @torch.no_grad()
    def _store(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> None:
        """Add the images of all members that the members recognise to the task memory.

        Members with the same classes classify them too; a member that these contradict is excluded.
        """
        for member, (images, labels) in recovered.items():
            if self.config.inversion.confirmed_only:
                stored = to_float(to_bytes(images))
                generator = seeds.generator(self.config.seed, "judges", iteration, member)
                queried = [member, *self.agreement.draw_members_sharing_classes(member, JUDGES, generator)]
                scores = {index: teacher_logits(self.zoo[index], stored) for index in queried}
                self.agreement.add(member, labels, scores)
                confirmed = self.source.confirmed(member, labels, scores[member])
                for index, reason in self.agreement.contradicted().items():
                    self.source.exclude(index, reason)
                if self.zoo.name(member) in self.source.failures.excluded:
                    continue
                images, labels = images[confirmed], labels[confirmed]
            self.memory.add(images, self.classes[member][labels])

    def _bell_distillation(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> dict[str, float]:
        """BELL, distillation: distil the members into the learner with implicit gradient alignment."""
        config, weights = self.config, self.distillation.parameters
        view = sample_view(VIEW, seeds.generator(config.seed, "distillation", iteration))
        losses = [self._member_loss(member, each.images, view) for member, each in recovered.items()]
        if config.alignment == "sequential":
            update = sequential(weights, losses, lr=config.alignment_lr, optimiser=config.alignment_optimiser)
        else:
            update = joint(weights, losses, lr=config.alignment_lr, optimiser=config.alignment_optimiser)
        metrics = {"distillation_loss": update.losses.mean().item()}
        if config.cosine_every and iteration % config.cosine_every == 0 and len(losses) > 1:
            gradients, _ = member_gradients(weights, losses)
            metrics["cosine"] = mean_cosine([_backbone(gradient) for gradient in gradients])
        for name, value in weights.items():
            value.grad = update.pseudo_gradient[name]
        self.distillation_optimiser.step()
        return metrics

    @torch.no_grad()
    def _member_loss(self, member: int, images: Tensor, view: AnyView) -> MemberLoss:
        """The distillation loss of one member on a view of its images, as a function of the student's weights."""
        preprocessing = self.preprocessing
        inputs = preprocessing.denormalise(view.apply(preprocessing.normalise(images)))
        return self.distillation.loss(inputs, teacher_logits(self.zoo[member], inputs), member)

    def _bell_replay(self, iteration: int) -> dict[str, float]:
        """BELL, replay: meta-train the learner on tasks that mix the classes of all members in memory."""
        config = self.config
        if len(self.memory.ready(config.shot + config.query)) < config.way:
            return {"replay_steps": 0.0}
        best, stagnant, step = -math.inf, 0, 0
        metrics: dict[str, float] = {}
        while stagnant < config.replay_patience if config.replay == "stagnation" else step < config.replay_steps:
            episodes = [self._task(iteration, step, index) for index in range(config.replay_tasks)]
            metrics = self.outer.step(episodes)
            best, stagnant = (metrics["accuracy"], 0) if metrics["accuracy"] > best else (best, stagnant + 1)
            step += 1
        return {**metrics, "replay_steps": float(step)}

    def _task(self, iteration: int, step: int, index: int) -> Episode:
        config = self.config
        generator = seeds.generator(config.seed, "replay", iteration, step, index)
        return self.memory.episode(config.way, config.shot, config.query, generator)

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        return self.outer.learner()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        messages, self._messages = self._messages, []
        return [*self.source.pop_messages(), *messages]

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        outer = self.outer.describe_metrics()
        return {
            "outer_loss": outer["outer_loss"],
            "distillation_loss": MetricDescription(
                "distillation loss",
                "Distillation loss: KL divergence of the learner's predictions from the members' predictions.",
                panel=outer["outer_loss"].panel,
                headline=True,
            ),
            "accuracy": outer["accuracy"],
            "replay_steps": MetricDescription(
                "replay steps", "Number of replay steps per meta-iteration.", logarithmic=False
            ),
            "cosine": MetricDescription(
                "gradient cosine",
                "Mean cosine between the members' gradients with respect to the backbone, in [-1, 1].",
                logarithmic=False,
            ),
            **describe_inversion_metrics(disagreement=True),
        }

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """See `TrainingRun.images`."""
        return self.memory.newest(class_index, count)

    def learned_engine(self) -> LearnedEngine | None:
        """See `TrainingRun.learned_engine`."""
        return self.source.learned_engine()

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        tensors = {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        tensors |= {f"memory.{name}": value for name, value in self.memory.state_dict().items()}
        engine, values = self.source.state_dict()
        tensors |= {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"agreement.{name}": value for name, value in self.agreement.state_dict().items()}
        tensors |= {f"distillation.{name}": value for name, value in self.distillation.head.items()}
        tensors |= optimiser_state_dict("distillation_optimiser", self.distillation_optimiser)
        return State(tensors, values)

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        self.source.load_state_dict(select_prefix(state.tensors, "engine."), state.values)
        self.outer.load_state_dict(select_prefix(state.tensors, "outer."))
        self.memory.load_state_dict(select_prefix(state.tensors, "memory."))
        self.agreement.load_state_dict(select_prefix(state.tensors, "agreement."))
        with torch.no_grad():
            for name, value in self.distillation.head.items():
                value.copy_(state.tensors[f"distillation.{name}"])
        load_optimiser_state_dict("distillation_optimiser", self.distillation_optimiser, state.tensors)


def _backbone(parameters: Parameters) -> Parameters:
    return {name: value for name, value in parameters.items() if name.startswith("backbone.")}
