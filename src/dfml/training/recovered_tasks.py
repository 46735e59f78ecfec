"""Tasks from recovered images: what the members confirm is stored by class, and a learner is meta-trained on it.

FREE, BiDf-MKD and TGR share this part, which the released code of FREE calls replay: a task mixes the classes of all
members whose images are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dfml import seeds
from dfml.errors import UsageError
from dfml.images import to_bytes, to_float
from dfml.inversion.agreement import CrossMemberAgreement
from dfml.inversion.image_source import ImageSource
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.registry import InversionConfig
from dfml.learners import LearnerConfig
from dfml.learners.classifier import select_prefix
from dfml.learners.episode import Episode
from dfml.training.device import require_memory
from dfml.training.loop import MetricDescription, TrainingConfig
from dfml.training.outer_loop import OuterLoop
from dfml.training.task_memory import TaskMemory
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo

JUDGES = 3
"""Number of other members with the same classes that classify the images recovered from a member."""


class RecoveredTasksConfig(TrainingConfig):
    """Settings of methods that recover images from some members per meta-iteration and replay tasks from a memory.

    Defaults are those of the released code of FREE.
    """

    iterations: NonNegativeInt = 999
    """Number of meta-iterations."""
    learner: LearnerConfig = LearnerConfig(inner_steps=5, test_inner_steps=10)
    inversion: InversionConfig = InversionConfig()
    """Inversion engine, and the settings of each engine."""
    members_per_step: PositiveInt = 4
    """Number of members per meta-iteration, sampled at random."""
    images_per_class: PositiveInt = 20
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    outer_lr: PositiveFloat = 0.001
    """Learning rate of Adam for the meta-learned weights. Replay and distillation have an Adam each, because their
    gradients differ in scale."""
    memory: PositiveInt = 400
    """Number of images kept per class, as bytes: 79 MB for 64 classes of 32 x 32 images."""
    replay: Literal["stagnation", "fixed", "none"] = "stagnation"
    """Length of the replay in a meta-iteration. `stagnation`: until the accuracy has not improved for `replay_patience`
    steps (as in the released code; the time varies). `fixed`: `replay_steps` steps. `none`: no replay."""
    replay_patience: PositiveInt = 10
    """Number of replay steps in a row without improvement that end a replay until `stagnation`."""
    replay_steps: PositiveInt = 20
    """Number of steps of a `fixed` replay."""
    replay_tasks: PositiveInt = 10
    """Number of tasks per replay step; their losses are summed."""
    patience: PositiveInt = 5
    """Number of inversions in a row without progress after which a member is excluded."""
    statistics_momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Weight of a new replay step in the moving average of the support sets' batch-norm statistics, in (0, 1]; used if
    `learner.statistics_shrinkage` is not 0."""


def require_tasks(config: RecoveredTasksConfig, zoo: Zoo, device: torch.device) -> None:
    """Check that the zoo has classes enough for a task, and the memory room for the images of one.

    Raises:
        UsageError: If not, or the device lacks the memory.
    """
    if config.way > len(zoo.classes):
        raise UsageError(f"way {config.way} is larger than the number of classes of the zoo ({len(zoo.classes)})")
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


class RecoveredTasks:
    """The task memory of a run, the check of what enters it, and the replay.

    Args:
        config: Settings.
        zoo: The members.
        source: Where the images come from; members whose labels are wrong are excluded from it.
        outer: The outer loop that the replay meta-trains.
        size: Side length of the images in pixels.
        device: Device of the memory.

    Attributes:
        memory: The images by class of the zoo.
        agreement: How other members classify the images.
    """

    def __init__(
        self,
        config: RecoveredTasksConfig,
        zoo: Zoo,
        source: ImageSource,
        outer: OuterLoop,
        size: int,
        device: torch.device,
    ) -> None:
        self._config, self._zoo, self._source, self._outer = config, zoo, source, outer
        self.memory = TaskMemory(len(zoo.classes), config.memory, size, device)
        self.agreement = CrossMemberAgreement(zoo)
        self._classes = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]

    @torch.no_grad()
    def add(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> None:
        """Add the images of all members that the members recognise to the task memory.

        Members with the same classes classify them too; a member that these contradict is excluded.
        """
        config, source = self._config, self._source
        for member, (images, labels) in recovered.items():
            if config.inversion.confirmed_only:
                stored = to_float(to_bytes(images))
                generator = seeds.generator(config.seed, "judges", iteration, member)
                judges = self.agreement.draw_members_sharing_classes(member, JUDGES, generator)
                queried = [member, *(index for index in judges if source.can_query(index, len(stored)))]
                scores = {index: teacher_logits(self._zoo[index], stored) for index in queried}
                self.agreement.add(member, labels, scores)
                confirmed = source.confirmed(member, labels, scores[member])
                for index, reason in self.agreement.contradicted().items():
                    source.exclude(index, reason)
                if self._zoo.name(member) in source.failures.excluded:
                    continue
                images, labels = images[confirmed], labels[confirmed]
            self.memory.add(images, self._classes[member][labels])

    def replay(self, iteration: int) -> dict[str, float]:
        """Meta-train the learner on tasks from the memory; does nothing while too few classes have images enough."""
        config = self._config
        if len(self.memory.ready(config.shot + config.query)) < config.way:
            return {"replay_steps": 0.0}
        best, stagnant, step = -math.inf, 0, 0
        metrics: dict[str, float] = {}
        while stagnant < config.replay_patience if config.replay == "stagnation" else step < config.replay_steps:
            episodes = [self._task(iteration, step, index) for index in range(config.replay_tasks)]
            metrics = self._outer.step(episodes)
            best, stagnant = (metrics["accuracy"], 0) if metrics["accuracy"] > best else (best, stagnant + 1)
            step += 1
        return {**metrics, "replay_steps": float(step)}

    def _task(self, iteration: int, step: int, index: int) -> Episode:
        config = self._config
        generator = seeds.generator(config.seed, "replay", iteration, step, index)
        return self.memory.episode(config.way, config.shot, config.query, generator)

    def final_messages(self) -> list[str]:
        """What the user should know of the members at the end of a run."""
        return [*self._source.failures.describe_unrecognised(), *self.agreement.warnings()]

    @staticmethod
    def describe_metrics() -> dict[str, MetricDescription]:
        """Descriptions of the metrics that `replay` returns; see `TrainingRun.describe_metrics`."""
        steps = MetricDescription("replay steps", "Number of replay steps per meta-iteration.", logarithmic=False)
        return {**OuterLoop.describe_metrics(), "replay_steps": steps}

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name, not copied, for a checkpoint."""
        tensors = {f"memory.{name}": value for name, value in self.memory.state_dict().items()}
        return tensors | {f"agreement.{name}": value for name, value in self.agreement.state_dict().items()}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned; other tensors are ignored."""
        self.memory.load_state_dict(select_prefix(dict(tensors), "memory."))
        self.agreement.load_state_dict(select_prefix(dict(tensors), "agreement."))
