"""`ZooEmbeddingLearner`: the outputs of all members of a zoo, side by side, embed an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.errors import LearnerError, ZooMemberError
from dfml.images import resize_and_crop
from dfml.learners.classifier import read_preprocessing
from dfml.learners.embedding import EmbeddingLearner, HeadFit, centred_probabilities
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.readers import WEIGHTS, load_member, read_member_config, sha256

Representation = Literal["probabilities", "centred", "logits", "features"]
"""What is asked of a member about an image: its probabilities; these, softer, less those of guessing
(`dfml.learners.embedding.centred_probabilities`); its logits; or its unit-norm features."""


class ZooEmbeddingLearner(EmbeddingLearner):
    """Saves where its members are and their digests, not the members.

    Args:
        members: The whole zoo.
        preprocessing: Its size is the one that images are brought to; members resize and normalise on their own.
        representation: What is asked of the members.
        fit: How heads are fitted.
        way: For the record; it adapts to any number of classes.
        name: What it is called in tables.
    """

    kind: ClassVar[str] = "zoo_embedding"

    def __init__(
        self,
        members: list[PretrainedClassifier],
        preprocessing: Preprocessing,
        *,
        representation: Representation = "probabilities",
        fit: HeadFit = "mean",
        way: int = 5,
        name: str = "zoo_embedding",
    ) -> None:
        self.members = members
        self.preprocessing = preprocessing
        self.representation: Representation = representation
        self.fit = fit
        self.way, self.name, self.protocol = way, name, "any"

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """All members' opinions side by side; each sees the images at its own size."""
        return torch.cat(
            [self._opinion(member, resize_and_crop(images, member.size)) for member in self.members], dim=1
        )

    def _opinion(self, member: PretrainedClassifier, images: Tensor) -> Tensor:
        if self.representation == "features":
            return functional.normalize(member.features(images), dim=1)
        logits = member.logits(images)
        if self.representation == "logits":
            return logits
        return centred_probabilities(logits) if self.representation == "centred" else logits.softmax(dim=1)

    def to(self, device: torch.device) -> ZooEmbeddingLearner:
        """Move to a device; returns itself."""
        self.device = device
        for member in self.members:
            member.to(device)
        return self

    def get_config(self) -> dict[str, Any]:
        """See `MetaLearner.get_config`.

        Raises:
            LearnerError: If a member was not loaded from a folder, so that there is nothing to refer to.
        """
        return {
            **super().get_config(),
            "members": member_references(self.members),
            "representation": self.representation,
            "fit": self.fit,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """See `MetaLearner.state_dict`; empty, because the members' weights stay in their own files."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> ZooEmbeddingLearner:
        """See `MetaLearner.from_config`.

        Raises:
            LearnerError: If a member's file has moved or changed, or cannot be loaded.
        """
        return cls(
            load_references(config["members"]),
            read_preprocessing(config["preprocessing"]),
            representation=config["representation"],
            fit=config["fit"],
            way=config["way"],
            name=config["name"],
        )


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
            members.append(load_member(read_member_config(path)))
        except ZooMemberError as error:
            raise LearnerError(str(error)) from error
    return members
