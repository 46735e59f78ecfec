"""`best_member`: the one member whose features are most like the whole zoo's representation, chosen without any label.

What a user would do who wants a single network and no training: pick a member. Nobody can tell which one from its own
accuracy, which is about its own classes; so each is compared with what all members together say about recovered images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from dfml.errors import RunError
from dfml.images import to_bytes, to_float
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.image_source import ImageSource
from dfml.inversion.registry import InversionConfig
from dfml.learners.classifier import strip
from dfml.learners.embedding import HeadFit
from dfml.learners.student import OutputGroups
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.methods.base import Method
from dfml.training.checkpoint import State
from dfml.training.distillation_buffer import DistillationBuffer
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.pretrained import query_members
from dfml.zoo.zoo import Zoo

_AT_ONCE = 128  # images that are put to a member


class BestMemberConfig(TrainingConfig):
    """Settings of `best_member`."""

    iterations: PositiveInt = 20
    """Visits to members, one a meta-iteration, whose images the choice is made on."""
    images_per_class: PositiveInt = 10
    """Recovered at a visit, for each of a member's classes (`inversion.classes_per_round`)."""
    inversion: InversionConfig = InversionConfig(engine="ei", ei=PixelInversionConfig(steps=100))
    patience: PositiveInt = 5
    """Visits without progress after which a member is excluded (`dfml.inversion.failures`)."""
    fit: HeadFit = "mean"
    """How heads are fitted to a support set: `mean` or `ridge`."""


class BestMember(Method):
    """The features of the member that agrees best with the whole zoo, under the nearest class mean."""

    name: ClassVar[str] = "best_member"
    trains_on_demand: ClassVar[bool] = True
    config_type: ClassVar[type[TrainingConfig]] = BestMemberConfig
    config: BestMemberConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        return BestMemberRun(self.config, zoo, device)


class BestMemberRun(TrainingRun):
    """Recovered images, with all members' answers; the choice is made when a learner is asked for."""

    def __init__(self, config: BestMemberConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo = config, zoo
        self.iterations = config.iterations
        self.preprocessing = zoo.preprocessing()
        self.source = ImageSource(
            config.inversion, zoo, self.preprocessing, patience=config.patience, seed=config.seed, device=device
        )
        outputs = [len(classes) for classes in zoo.classes.of_member]
        self._groups = OutputGroups(outputs)
        self._messages: list[str] = []
        self._chosen: tuple[int, int, float] | None = None  # images it was chosen by, member, agreement
        room = config.iterations * self.source.most_images(config.images_per_class)
        self.buffer = DistillationBuffer(room, self.preprocessing.size, sum(outputs), device)

    @torch.no_grad()
    def step(self, iteration: int) -> Mapping[str, float]:
        """Recover images from one member, and ask all about them."""
        with torch.enable_grad():
            found = self.source.recover(
                self.source.sample_members(iteration, 1), self.config.images_per_class, iteration
            )
        for images in found.values():
            kept = to_bytes(images)
            self.buffer.add(kept, self._groups.log_softmax(query_members(self.zoo, to_float(kept))))
        if iteration == self.iterations:
            best, agreement = self._choose()
            self._messages.append(f"{self.zoo.name(best)} agrees best with the whole zoo (linear CKA {agreement:.2f})")
        return self.source.last

    def _choose(self) -> tuple[int, float]:
        """The member that agrees best with the zoo's representation of the images so far, and how much it does.

        Raises:
            RunError: If no image could be recovered.
        """
        if len(self.buffer) == 0:
            raise RunError("no image could be recovered to compare the members on; ask for more --iterations")
        if self._chosen and self._chosen[0] == self.buffer.written:
            return self._chosen[1:]
        parts = torch.split(self.buffer.images[: len(self.buffer)], _AT_ONCE)
        # A member whose answers are not finite has no say, and one whose features are not cannot be the best.
        representation = self.buffer.answers[: len(self.buffer)].float().exp().nan_to_num()
        agreement = []
        for member in self.zoo:
            one = ZooEmbeddingLearner([member], self.preprocessing, representation="features")
            features = torch.cat([one.embed(to_float(part)) for part in parts])
            agreement.append(linear_cka(features, representation))
        highest = torch.stack(agreement).nan_to_num(nan=-1.0).max(dim=0)
        self._chosen = (self.buffer.written, int(highest.indices), float(highest.values))
        return self._chosen[1:]

    @torch.no_grad()
    def learner(self) -> ZooEmbeddingLearner:
        """See `TrainingRun.learner`."""
        best, _ = self._choose()
        learner = ZooEmbeddingLearner(
            [self.zoo[best]],
            self.preprocessing,
            representation="features",
            fit=self.config.fit,
            way=self.config.way,
            name=BestMember.name,
        )
        return learner.to(self.buffer.images.device)

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        notes, self._messages = self._messages, []
        return [*self.source.pop_messages(), *notes]

    def state_dict(self) -> State:
        """See `TrainingRun.state`."""
        engine, values = self.source.state_dict()
        tensors = {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffer.state_dict().items()}
        return State(tensors, values, frozenset(f"buffer.{name}" for name in DistillationBuffer.ROWS))

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        self.source.load_state_dict(strip(state.tensors, "engine."), state.values)
        self.buffer.load_state_dict(strip(state.tensors, "buffer."))
        self._chosen = None


def linear_cka(first: Float[Tensor, "images features"], second: Float[Tensor, "images others"]) -> Float[Tensor, ""]:
    """How alike two embeddings are, whatever their rotation and scale, from 0 to 1 (Kornblith et al. 2019, eq. 4)."""
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    norms = torch.linalg.matrix_norm(first.T @ first) * torch.linalg.matrix_norm(second.T @ second)
    alike: Tensor = torch.linalg.matrix_norm(first.T @ second).square() / norms
    return alike
