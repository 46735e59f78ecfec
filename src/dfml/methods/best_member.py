"""`best_member`: the one member whose features are most like the whole zoo's opinion, chosen without any label.

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
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.image_source import ImageSource
from dfml.inversion.registry import InversionConfig
from dfml.learners.classifier import strip
from dfml.learners.embedding import HeadFit
from dfml.learners.student import OutputGroups
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.methods.base import Method
from dfml.training.checkpoint import State
from dfml.training.distillation_buffer import AnsweredImages, to_bytes
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.pretrained import ask
from dfml.zoo.zoo import Zoo

_AT_ONCE = 128  # images that are put to a member


class BestMemberConfig(TrainingConfig):
    """Settings of `best_member`."""

    iterations: PositiveInt = 20
    """Visits to members, one a meta-iteration, whose images the choice is made on."""
    images_per_class: PositiveInt = 10
    """Recovered at a visit, for each of a member's classes (`inversion.classes_per_visit`)."""
    inversion: InversionConfig = InversionConfig(engine="ei", ei=PixelInversionConfig(steps=100))
    patience: PositiveInt = 5
    """Visits without progress after which a member is set aside (`dfml.inversion.failures`)."""
    fit: HeadFit = "mean"
    """How heads are fitted to a support set: `mean` or `ridge`."""


class BestMember(Method):
    """The features of the member that agrees best with the whole zoo, under the nearest class mean."""

    name: ClassVar[str] = "best_member"
    config_type: ClassVar[type[TrainingConfig]] = BestMemberConfig
    config: BestMemberConfig

    def begin(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.begin`."""
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
        self._notes: list[str] = []
        self._chosen: tuple[int, int, float] | None = None  # images it was chosen by, member, agreement
        room = config.iterations * self.source.most_images(config.images_per_class)
        self.pool = AnsweredImages(room, self.preprocessing.size, sum(outputs), device)

    @torch.no_grad()
    def step(self, iteration: int) -> Mapping[str, float]:
        """Recover images from one member, and ask all about them."""
        with torch.enable_grad():
            found = self.source.visit(self.source.draw(iteration, 1), self.config.images_per_class, iteration)
        for images in found.values():
            kept = to_bytes(images)
            self.pool.add(kept, self._groups.log_softmax(ask(self.zoo, kept.float() / 255.0)))
        if iteration == self.iterations:
            best, agreement = self._choose()
            self._notes.append(f"{self.zoo.name(best)} agrees best with the whole zoo (linear CKA {agreement:.2f})")
        return self.source.last

    def _choose(self) -> tuple[int, float]:
        """The member that agrees best with the zoo's opinion of the images so far, and how much it does.

        Raises:
            RunError: If no image could be recovered.
        """
        if len(self.pool) == 0:
            raise RunError("no image could be recovered to compare the members on; ask for more --iterations")
        if self._chosen and self._chosen[0] == self.pool.written:
            return self._chosen[1:]
        parts = torch.split(self.pool.images[: len(self.pool)], _AT_ONCE)
        # A member whose answers are not finite has no say, and one whose features are not cannot be the best.
        opinion = self.pool.answers[: len(self.pool)].float().exp().nan_to_num()
        agreement = []
        for member in self.zoo:
            one = ZooEmbeddingLearner([member], self.preprocessing, opinion="features")
            features = torch.cat([one.embed(part.float() / 255.0) for part in parts])
            agreement.append(linear_cka(features, opinion))
        highest = torch.stack(agreement).nan_to_num(nan=-1.0).max(dim=0)
        self._chosen = (self.pool.written, int(highest.indices), float(highest.values))
        return self._chosen[1:]

    @torch.no_grad()
    def learner(self) -> ZooEmbeddingLearner:
        """See `TrainingRun.learner`."""
        best, _ = self._choose()
        learner = ZooEmbeddingLearner(
            [self.zoo[best]],
            self.preprocessing,
            opinion="features",
            fit=self.config.fit,
            way=self.config.way,
            name=BestMember.name,
        )
        return learner.to(self.pool.images.device)

    def take_notes(self) -> list[str]:
        """See `TrainingRun.take_notes`."""
        notes, self._notes = self._notes, []
        return [*self.source.take_notes(), *notes]

    def state(self) -> State:
        """See `TrainingRun.state`."""
        engine, values = self.source.state()
        tensors = {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"pool.{name}": value for name, value in self.pool.tensors().items()}
        return State(tensors, values, frozenset(f"pool.{name}" for name in AnsweredImages.ROWS))

    def restore(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        self.source.restore(strip(state.tensors, "engine."), state.values)
        self.pool.restore(strip(state.tensors, "pool."))
        self._chosen = None


def linear_cka(first: Float[Tensor, "images features"], second: Float[Tensor, "images others"]) -> Float[Tensor, ""]:
    """How alike two embeddings are, whatever their rotation and scale, from 0 to 1 (Kornblith et al. 2019, eq. 4)."""
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    norms = torch.linalg.matrix_norm(first.T @ first) * torch.linalg.matrix_norm(second.T @ second)
    alike: Tensor = torch.linalg.matrix_norm(first.T @ second).square() / norms
    return alike
