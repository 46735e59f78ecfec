"""`zoo_embedding`: ask all members for their opinion, and take the nearest class mean.

The softmax outputs of all members side by side are an image's embedding. Nothing is trained; every member must be kept
and run on every image. A learner in one network has to beat this to be worth its training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.errors import LearnerError, ZooMemberError
from dfml.images import fit_images
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier, read_preprocessing
from dfml.learners.embedding import EmbeddingLearner, cosine_scores
from dfml.methods.base import Method
from dfml.methods.untrained import Finished
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.classifier import Preprocessing, PretrainedClassifier
from dfml.zoo.readers import WEIGHTS, load_member, read_card, sha256
from dfml.zoo.zoo import Zoo


class ZooEmbeddingConfig(TrainingConfig):
    """Settings of `zoo_embedding`."""

    iterations: int = 0


class ZooEmbedding(Method):
    """Nearest class mean, by cosine, of all members' softmax outputs."""

    name: ClassVar[str] = "zoo_embedding"
    config_type: ClassVar[type[TrainingConfig]] = ZooEmbeddingConfig

    def begin(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.begin`."""
        learner = ZooEmbeddingLearner(list(zoo), zoo.preprocessing(), way=self.config.way)
        learner.device = device
        return Finished(learner)


class ZooEmbeddingLearner(EmbeddingLearner):
    """Saves where its members are and their digests, not the members.

    Args:
        members: The whole zoo.
        preprocessing: Its size is the one that images are brought to; members resize and normalise on their own.
        way: For the record; it adapts to any number of classes.
    """

    kind: ClassVar[str] = "zoo_embedding"

    def __init__(self, members: list[PretrainedClassifier], preprocessing: Preprocessing, *, way: int = 5) -> None:
        self.members = members
        self.preprocessing = preprocessing
        self.way = way
        self.name = ZooEmbedding.name
        self.protocol = "any"

    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """All members' softmax outputs side by side."""
        return embed_with(self.members, images)

    def classifier(self, means: Float[Tensor, "way features"], names: tuple[str, ...]) -> FewShotClassifier:
        """See `EmbeddingLearner.classifier`."""
        return ZooEmbeddingClassifier(self.members, means, names, self.preprocessing)

    def to(self, device: torch.device) -> ZooEmbeddingLearner:
        """Move to a device; returns itself."""
        self.device = device
        for member in self.members:
            member.to(device)
        return self

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `MetaLearner.contents`."""
        return {"members": member_references(self.members)}, {}

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MetaLearner:
        """See `MetaLearner.rebuild`."""
        return cls(load_references(config["members"]), read_preprocessing(config["preprocessing"]), way=config["way"])


class ZooEmbeddingClassifier(FewShotClassifier):
    """Class means in the zoo's embedding."""

    kind: ClassVar[str] = "zoo_embedding"

    def __init__(
        self,
        members: list[PretrainedClassifier],
        means: Float[Tensor, "way features"],
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
    ) -> None:
        self.members = members
        self.means = means
        self.labels = labels
        self.preprocessing = preprocessing

    def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        """Scaled cosines."""
        return cosine_scores(embed_with(self.members, images), self.means)

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `FewShotClassifier.contents`."""
        return {"members": member_references(self.members)}, {"means": self.means}

    @classmethod
    def rebuild(
        cls, labels: tuple[str, ...], preprocessing: Preprocessing, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> ZooEmbeddingClassifier:
        """See `FewShotClassifier.rebuild`."""
        return cls(load_references(config["members"]), tensors["means"], labels, preprocessing)


def embed_with(
    members: list[PretrainedClassifier], images: Float[Tensor, "images 3 size size"]
) -> Float[Tensor, "images features"]:
    """Softmax outputs of members side by side; each sees the images at its own size."""
    parts = [member.logits(fit_images(images, member.preprocessing.size)).softmax(dim=1) for member in members]
    return torch.cat(parts, dim=1)


def member_references(members: list[PretrainedClassifier]) -> list[dict[str, str]]:
    """Path and digest of every member.

    Raises:
        LearnerError: If a member was never on the disk.
    """
    paths = [Path(member.source) for member in members]
    missing = [member.source for member, path in zip(members, paths, strict=True) if not (path / WEIGHTS).is_file()]
    if missing:
        raise LearnerError(
            f"a zoo embedding refers to its members' files, but {missing[0]} is not a folder; save it first"
        )
    return [{"path": str(path.resolve()), "sha256": sha256(path / WEIGHTS)} for path in paths]


def load_references(references: list[dict[str, str]]) -> list[PretrainedClassifier]:
    """The members again.

    Raises:
        LearnerError: If one has moved or changed since.
    """
    members = []
    for reference in references:
        path = Path(reference["path"])
        if not (path / WEIGHTS).is_file() or sha256(path / WEIGHTS) != reference["sha256"]:
            raise LearnerError(f"the zoo member {path} has moved or changed since this was saved; make it anew")
        try:
            members.append(load_member(read_card(path)))
        except ZooMemberError as error:
            raise LearnerError(str(error)) from error
    return members
