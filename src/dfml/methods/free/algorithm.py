"""FREE (Yuan et al., CVPR 2024): recover a task from each member in a few steps, and align what the members teach.

A meta-iteration (papers 2.6): FIVE specialises one generator on a few members; their images go into the task memory;
BELL distils the members into the learner one after the other, which aligns their gradients; the learner replays tasks
that mix the classes of all members seen so far. Differences to the released code are those of papers 2.9 (every
member's images are kept, divergences are divergences, optimisers last, nothing looks at test images), and: the
distillation has a head and an Adam of its own, disagreement reaches the images through the learner too, and what a
shift brings in is the mean colour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.images import resize_and_crop
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights, View, sample_view
from dfml.inversion.registry import InversionConfig
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.classifier import strip
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.methods.base import Method
from dfml.methods.free.alignment import InnerOptimiser, MemberLoss, joint, mean_cosine, member_gradients, sequential
from dfml.methods.free.distillation import Distillation, HeadRule
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.device import require_memory
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.training.outer_loop import OuterLoop
from dfml.training.task_memory import TaskMemory
from dfml.zoo.zoo import Zoo

VIEW = InversionWeights(jitter=4, wrap=False, flip=True)
"""How images are shifted and mirrored for the distillation."""


class FreeConfig(TrainingConfig):
    """Settings of FREE; defaults are those of the released code (papers 2.5) unless a setting says otherwise."""

    iterations: NonNegativeInt = 999
    learner: LearnerConfig = LearnerConfig(inner_steps=5, test_inner_steps=10)
    img_size: PositiveInt | None = None
    """Pixels a side of learner and memory; None: the members' most common size."""
    inversion: InversionConfig = InversionConfig()
    members_per_step: PositiveInt = 4
    """Members that are visited in a meta-iteration, drawn at random."""
    images_per_class: PositiveInt = 20
    """Recovered at a visit, for each of a member's classes (`inversion.classes_per_round`)."""
    warm_up: NonNegativeInt = 19
    """Meta-iterations that train the engine only."""
    alignment: Literal["sequential", "joint", "none"] = "sequential"
    """How the members are distilled into the learner: one after the other (BELL), all at once (an ablation), not at all
    (then there is no student to disagree with either)."""
    alignment_optimiser: InnerOptimiser = "adam"
    """Of the sequential updates: `adam` as released, `sgd` as the theory has it."""
    alignment_lr: PositiveFloat = 0.001
    """Of the updates by one member after the other, or by all together."""
    distillation_head: HeadRule = "classes"
    """Whose head row stands for which output of a member; `positions` is as released (see `distillation.py`).
    Either way the head is used for distillation only: the head that episodes start from is left to the replay."""
    temperature: PositiveFloat = 1.0
    """Of the distillation."""
    cosine_every: NonNegativeInt = 0
    """Meta-iterations between measurements of how well the members' gradients to the backbone agree; 0: never."""
    outer_lr: PositiveFloat = 0.001
    """Of Adam; the replay and the distillation have one each, because their gradients are of different scale."""
    memory: PositiveInt = 400
    """Images kept of every class, as bytes: 79 MB for 64 classes at 32 pixels a side."""
    replay: Literal["stagnation", "fixed", "none"] = "stagnation"
    """Replay until its accuracy has not improved `replay_patience` times in a row (as released; takes as long as it
    takes), or `replay_steps` times, or not at all."""
    replay_patience: PositiveInt = 10
    """Replays without improvement that mean stagnation."""
    replay_steps: PositiveInt = 20
    """Of a `fixed` replay."""
    replay_tasks: PositiveInt = 10
    """Tasks of a replay step; their losses are summed."""
    patience: PositiveInt = 5
    """Visits without progress after which a member is excluded (`dfml.inversion.failures`)."""
    statistics_momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Of the moving average of support statistics (used by `learner.statistics_shrinkage`)."""


class FREE(Method):
    """Meta-training on tasks that a meta-learned generator recovers from the members."""

    name: ClassVar[str] = "free"
    config_type: ClassVar[type[TrainingConfig]] = FreeConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Chosen on the validation classes of CIFAR-FS and on letters (docs/results/free.md).
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
        }
    }
    config: FreeConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        config = self.config
        if config.way > len(zoo.classes):
            raise UsageError(f"way {config.way} asks for more classes than the zoo knows ({len(zoo.classes)})")
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
            f"memory {config.memory} of each of {len(zoo.classes)} classes, at {size} pixels a side (img_size),",
        )
        return FreeRun(config, zoo, device)


class FreeRun(TrainingRun):
    """State and meta-iteration of FREE (papers 2.6)."""

    def __init__(self, config: FreeConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
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
        """Recover, remember, align, replay."""
        began = time.perf_counter()
        members = self.source.sample_members(iteration, self.config.members_per_step)
        recovered, metrics = self._recover(members, iteration)
        metrics["recovery_seconds"] = time.perf_counter() - began
        if iteration <= self.config.warm_up:
            return metrics
        for member, images in recovered.items():
            labels = self.source.labels(member, self.config.images_per_class, iteration)
            self.memory.add(images, self.classes[member][labels])
        if recovered and self.config.alignment != "none":
            metrics |= self._align(recovered, iteration)
        metrics["alignment_seconds"] = time.perf_counter() - began - metrics["recovery_seconds"]
        if self.config.replay != "none":
            between = time.perf_counter()
            metrics |= self._replay(iteration)
            metrics["replay_seconds"] = time.perf_counter() - between
        return metrics

    def _recover(self, members: list[int], iteration: int) -> tuple[dict[int, Tensor], dict[str, float]]:
        """Images of the members whose recovery went well, and what the engine learned from them (papers 2.2)."""
        # A distillation head that nothing trains is not worth disagreeing with.
        taught = iteration > self.config.warm_up and self.config.alignment != "none"
        found = self.source.recover(
            members,
            self.config.images_per_class,
            iteration,
            student=self.distillation.answer if taught else None,
            own=self.distillation.parameters.values(),
        )
        return found, dict(self.source.last)

    def _align(self, recovered: Mapping[int, Tensor], iteration: int) -> dict[str, float]:
        """Cross-task distillation with implicit gradient alignment: BELL (papers 2.4, step 1)."""
        config, weights = self.config, self.distillation.parameters
        view = sample_view(VIEW, seeds.generator(config.seed, "distillation", iteration))
        losses = [self._distillation_loss(member, images, view) for member, images in recovered.items()]
        if config.alignment == "sequential":
            update = sequential(weights, losses, lr=config.alignment_lr, optimiser=config.alignment_optimiser)
        else:
            update = joint(weights, losses, lr=config.alignment_lr)
        metrics = {"distillation_loss": update.losses.mean().item()}
        if config.cosine_every and iteration % config.cosine_every == 0 and len(losses) > 1:
            gradients, _ = member_gradients(weights, losses)
            metrics["cosine"] = mean_cosine([_backbone(gradient) for gradient in gradients])
        for name, value in weights.items():
            value.grad = update.pseudo_gradient[name]
        self.distillation_optimiser.step()
        return metrics

    @torch.no_grad()
    def _distillation_loss(self, member: int, images: Tensor, view: View) -> MemberLoss:
        space, classifier = self.preprocessing, self.zoo.classifier(member)
        shown = space.denormalise(view.apply(space.normalise(images)))
        answers = classifier.logits(resize_and_crop(shown, classifier.size))
        return self.distillation.loss(shown, answers, member)

    def _replay(self, iteration: int) -> dict[str, float]:
        """Meta-learn from tasks that mix the classes of all members in memory (papers 2.4, step 2)."""
        config = self.config
        if len(self.memory.ready(config.shot + config.query)) < config.way:
            return {"replay_steps": 0.0}
        best, stagnant, step = -math.inf, 0, 0
        metrics: dict[str, float] = {}
        while stagnant < config.replay_patience if config.replay == "stagnation" else step < config.replay_steps:
            draws = [seeds.generator(config.seed, "replay", iteration, step, i) for i in range(config.replay_tasks)]
            episodes = [self.memory.episode(config.way, config.shot, config.query, draw) for draw in draws]
            metrics = self.outer.step(episodes)
            best, stagnant = (metrics["accuracy"], 0) if metrics["accuracy"] > best else (best, stagnant + 1)
            step += 1
        return {**metrics, "replay_steps": float(step)}

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        return self.outer.learner()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        return self.source.pop_messages()

    def state_dict(self) -> State:
        """See `TrainingRun.state`."""
        tensors = {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        tensors |= {f"memory.{name}": value for name, value in self.memory.state_dict().items()}
        engine, values = self.source.state_dict()
        tensors |= {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"distillation.{name}": value for name, value in self.distillation.head.items()}
        tensors |= optimiser_state_dict("distillation_optimiser", self.distillation_optimiser)
        return State(tensors, {**values, "preprocessing": self.preprocessing.as_dict()})

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        self.source.load_state_dict(strip(state.tensors, "engine."), state.values)
        self.outer.load_state_dict(strip(state.tensors, "outer."))
        self.memory.load_state_dict(strip(state.tensors, "memory."))
        with torch.no_grad():
            for name, value in self.distillation.head.items():
                value.copy_(state.tensors[f"distillation.{name}"])
        load_optimiser_state_dict("distillation_optimiser", self.distillation_optimiser, state.tensors)


def _backbone(parameters: Parameters) -> Parameters:
    return {name: value for name, value in parameters.items() if name.startswith("backbone.")}
