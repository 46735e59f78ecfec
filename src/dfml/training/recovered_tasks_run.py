"""`RecoveredTasksRun`: the state that FREE, BiDf-MKD and TGR share, and its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.inversion.image_source import ImageSource
from dfml.inversion.registry import LearnedEngine
from dfml.learners import create_learner
from dfml.learners.classifier import select_prefix
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.training.checkpoint import State
from dfml.training.loop import TrainingRun
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


def backbone_of(parameters: Parameters) -> Parameters:
    """The weights of the backbone alone."""
    return {name: value for name, value in parameters.items() if name.startswith("backbone.")}
