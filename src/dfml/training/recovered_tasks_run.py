"""What FREE, BiDf-MKD and TGR share, with its checkpoint, and what FREE and TGR do: distillation into a backbone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from dfml import seeds
from dfml.inversion.image_source import ImageSource
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.registry import LearnedEngine
from dfml.inversion.views import sample_view
from dfml.learners import create_learner
from dfml.learners.classifier import select_prefix
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.alignment import MemberLoss
from dfml.training.checkpoint import State
from dfml.training.distillation import VIEW, Distillation, HeadRule
from dfml.training.loop import MetricDescription, TrainingRun
from dfml.training.metrics import DISTILLATION_LOSS, describe_inversion_metrics
from dfml.training.outer_loop import OuterLoop
from dfml.training.recovered_tasks import RecoveredTasks, RecoveredTasksConfig
from dfml.zoo.zoo import Zoo


class RecoveredTasksRun(TrainingRun):
    """A run that recovers images from some members per meta-iteration, distils these members, and replays tasks.

    A subclass implements `step`, and creates what it distils into in `create_student`. Its own tensors that must be in
    a checkpoint are those of `student_parameters`.

    Args:
        config: Settings.
        zoo: The members.
        device: Device of everything.
        name: Name of the method, which the learner bears.

    Attributes:
        blank: Learner before meta-training; its network computes everything.
        outer: The outer loop that replay and distillation train.
        source: Where the images come from.
        tasks: Task memory and replay.
        distillation_optimiser: Adam of the distillation; the replay has its own, because their gradients differ in
            scale.
    """

    images_caption = "Newest images in the task memory, recovered from the members during the meta-training."

    def __init__(self, config: RecoveredTasksConfig, zoo: Zoo, device: torch.device, name: str) -> None:
        self.zoo, self.device, self.iterations = zoo, device, config.iterations
        self._replay = config.replay
        self.preprocessing = zoo.preprocessing(config.img_size)
        self.blank = create_learner(
            config.learner, self.preprocessing, way=config.way, protocol=config.protocol, seed=config.seed, name=name
        ).to(device)
        self.outer = OuterLoop(self.blank, lr=config.outer_lr, statistics_momentum=config.statistics_momentum)
        rows = self.create_student()
        self.distillation_optimiser = torch.optim.Adam(self.student_parameters().values(), lr=config.outer_lr)
        self.source = ImageSource(
            config.inversion,
            zoo,
            self.preprocessing,
            patience=config.patience,
            rows=rows,
            seed=config.seed,
            device=device,
        )
        self.tasks = RecoveredTasks(config, zoo, self.source, self.outer, self.preprocessing.size, device)
        self._messages: list[str] = []

    def create_student(self) -> Sequence[Tensor] | None:
        """Create what the members are distilled into, if it is more than the meta-learned weights; called once.

        Returns:
            See the argument `rows` of `ImageSource`.
        """
        return None

    def student_parameters(self) -> Parameters:
        """The weights that the distillation trains by name: those of the outer loop, or its backbone and others."""
        return self.outer.parameters

    def distillation_step(self, gradient: Parameters) -> None:
        """Take one step of `distillation_optimiser`.

        Args:
            gradient: For every weight of `student_parameters`, its gradient.
        """
        for name, value in self.student_parameters().items():
            value.grad = gradient[name]
        self.distillation_optimiser.step()

    def replay(self, iteration: int) -> dict[str, float]:
        """The end of a meta-iteration: meta-training on tasks from the memory.

        Returns:
            Its metrics, and the fraction of all images so far that their own member recognises.
        """
        start = time.perf_counter()
        metrics = self.source.failures.confirmation_metrics()
        if iteration == self.iterations:
            self._messages = self.tasks.final_messages()
        if self._replay == "none":
            return metrics
        metrics |= self.tasks.replay(iteration)
        return metrics | {"replay_seconds": time.perf_counter() - start}

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`; a subclass adds its own."""
        shared = self.tasks.describe_metrics()
        return {
            "outer_loss": shared["outer_loss"],
            "distillation_loss": DISTILLATION_LOSS,
            "accuracy": shared["accuracy"],
            "replay_steps": shared["replay_steps"],
            **describe_inversion_metrics(disagreement=True),
        }

    def learner(self) -> GradientLearner:
        """See `TrainingRun.learner`."""
        return self.outer.learner()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        messages, self._messages = self._messages, []
        return [*self.source.pop_messages(), *messages]

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """See `TrainingRun.images`."""
        return self.tasks.memory.newest(class_index, count)

    def learned_engine(self) -> LearnedEngine | None:
        """See `TrainingRun.learned_engine`."""
        return self.source.learned_engine()

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        tensors = {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        tensors |= self.tasks.state_dict()
        engine, values = self.source.state_dict()
        tensors |= {f"engine.{name}": value for name, value in engine.items()}
        own = self._own_parameters()
        tensors |= {f"distillation.{name}": value for name, value in own.items()}
        tensors |= optimiser_state_dict("distillation_optimiser", self.distillation_optimiser)
        return State(tensors, values)

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        self.source.load_state_dict(select_prefix(state.tensors, "engine."), state.values)
        self.outer.load_state_dict(select_prefix(state.tensors, "outer."))
        self.tasks.load_state_dict(state.tensors)
        with torch.no_grad():
            for name, value in self._own_parameters().items():
                value.copy_(state.tensors[f"distillation.{name}"])
        load_optimiser_state_dict("distillation_optimiser", self.distillation_optimiser, state.tensors)

    def _own_parameters(self) -> Parameters:
        """Weights of the student that are not the outer loop's."""
        shared = {id(value) for value in self.outer.parameters.values()}
        return {name: value for name, value in self.student_parameters().items() if id(value) not in shared}


class DistilledTasksConfig(RecoveredTasksConfig):
    """Settings of methods with a distillation head of their own; defaults are those of the released code of FREE."""

    distillation_head: HeadRule = "classes"
    """Row of the distillation head that is trained by an output of a member. `classes`: the row of the output's class.
    `positions`: the row with the output's index, as in the released code. The head is used for the distillation only;
    the head that episodes start from is trained by the replay."""
    temperature: PositiveFloat = 1.0
    """Temperature of the distillation."""


class DistilledTasksRun(RecoveredTasksRun):
    """A run that distils members into the learner's backbone with a head that has a row for every class.

    Args:
        config: Settings.
        zoo: The members.
        device: Device of everything.
        name: Name of the method, which the learner bears.
        label_weight: Weight of the images' labels in the distillation loss; see `Distillation`.

    Attributes:
        distillation: The student.
    """

    def __init__(
        self,
        config: DistilledTasksConfig,
        zoo: Zoo,
        device: torch.device,
        name: str,
        *,
        label_weight: float = 0.0,
    ) -> None:
        self._config, self._label_weight = config, label_weight
        super().__init__(config, zoo, device, name)

    def create_student(self) -> Sequence[Tensor]:
        """See `RecoveredTasksRun.create_student`."""
        config = self._config
        self.distillation = Distillation(
            self.blank,
            backbone_of(self.outer.parameters),
            self.zoo.classes.of_member,
            rule=config.distillation_head,
            temperature=config.temperature,
            label_weight=self._label_weight,
            seed=config.seed,
        )
        return self.distillation.rows

    def student_parameters(self) -> Parameters:
        """See `RecoveredTasksRun.student_parameters`."""
        return self.distillation.parameters

    def distillation_losses(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> list[MemberLoss]:
        """The distillation loss of every member on a random view of its images; see `Distillation.losses`."""
        view = sample_view(VIEW, seeds.generator(self._config.seed, "distillation", iteration))
        return self.distillation.losses(self.zoo, recovered, view)


def backbone_of(parameters: Parameters) -> Parameters:
    """The weights of the backbone alone."""
    return {name: value for name, value in parameters.items() if name.startswith("backbone.")}
