"""`ZooEmbeddingLearner`: the concatenated outputs of all members of a zoo embed an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.errors import LearnerError, ZooError, ZooMemberError
from dfml.learners.classifier import read_preprocessing
from dfml.learners.embedding import EmbeddingLearner, HeadFit, centred_probabilities
from dfml.zoo.hub import absolute_path
from dfml.zoo.members import Differentiable, Predicts, move_member, teacher_logits
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.vetting import load_member, read_member_config, weight_digest

Representation = Literal["probabilities", "centred", "logits", "features"]
"""What each member contributes to the embedding of an image. `probabilities`: its softmax probabilities. `centred`:
softened probabilities minus the uniform distribution (`dfml.learners.embedding.centred_probabilities`). `logits`: its
logits, for which it must be `dfml.zoo.Differentiable`. `features`: the unit-norm input of its head, for which it must
be a `dfml.zoo.PretrainedClassifier`."""


class ZooEmbeddingLearner(EmbeddingLearner):
    """Few-shot learner that runs every member of a zoo on every image; nothing is trained.

    A saved learner holds paths and SHA-256 digests of its members, not the members themselves.

    Args:
        members: Members of the zoo; the embedding has their order.
        preprocessing: Preprocessing of the learner, of which only the image size is used: each member resizes and
            normalises images itself.
        representation: What each member contributes to the embedding; default `probabilities`.
        fit: How the head is fitted to a support set; default `mean`.
        way: Number of classes per episode that is saved with the learner; `adapt` accepts any number.
        name: Name in tables.

    Raises:
        ZooError: If the representation needs logits or features that a member does not have.
    """

    kind: ClassVar[str] = "zoo_embedding"

    def __init__(
        self,
        members: Sequence[Predicts],
        preprocessing: Preprocessing,
        *,
        representation: Representation = "probabilities",
        fit: HeadFit = "mean",
        way: int = 5,
        name: str = "zoo_embedding",
    ) -> None:
        for member in members:
            _require(member, representation)
        self.members = list(members)
        self.preprocessing = preprocessing
        self.representation: Representation = representation
        self.fit = fit
        self.way, self.name, self.protocol = way, name, "any"

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """The representations of all members side by side; each member sees the images at its own size."""
        return torch.cat([self._represent(member, images) for member in self.members], dim=1)

    def _represent(self, member: Predicts, images: Tensor) -> Tensor:
        if not isinstance(member, Differentiable):
            logits = teacher_logits(member, images)
        elif self.representation == "features":
            assert isinstance(member, PretrainedClassifier)
            return functional.normalize(member.features(member.preprocessing.resize(images)), dim=1)
        else:
            logits = member.logits(member.preprocessing.resize(images))
        if self.representation == "logits":
            return logits
        return centred_probabilities(logits) if self.representation == "centred" else logits.softmax(dim=1)

    def sharing_problem(self) -> str:
        """See `Shareable.sharing_problem`: the members' weights stay in their own files."""
        return (
            "a zoo embedding refers to files of its members on this machine, and cannot be used on another one; share "
            "one network that the zoo is distilled into (zoo_student)"
        )

    def tracing_problem(self) -> str | None:
        """See `EmbeddingLearner.tracing_problem`: the network of a member that only predicts is not there."""
        for member in self.members:
            if not isinstance(member, Differentiable):
                return (
                    f"the zoo member {member.source} only predicts, so that its network cannot be part of a file; "
                    "leave it out, or distil the zoo into one network (zoo_student)"
                )
        return None

    def to(self, device: torch.device) -> ZooEmbeddingLearner:
        """See `MetaLearner.to`."""
        self.device = device
        for member in self.members:
            move_member(member, device)
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

    def stored_bytes(self) -> int:
        """Size in bytes of the weights of all members; of a member that is no module, dfml sees none."""
        modules = (member for member in self.members if isinstance(member, nn.Module))
        tensors = (tensor for module in modules for tensor in module.state_dict().values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

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


def _require(member: Predicts, representation: Representation) -> None:
    needed = {"logits": Differentiable, "features": PretrainedClassifier}.get(representation)
    if needed and not isinstance(member, needed):
        raise ZooError(
            f"zoo member {member.source} only predicts probabilities, but the representation is {representation!r}; "
            "choose 'probabilities' or 'centred', or leave the member out"
        )


def member_references(members: Sequence[Predicts]) -> list[dict[str, str]]:
    """Path and digest of the weight file of every member.

    Raises:
        LearnerError: If a member is not on the disk.
    """
    references = []
    for member in members:
        path = Path(member.source)
        digest = weight_digest(path)
        if digest is None:
            raise LearnerError(
                f"expected zoo members that were loaded from files, found {member.source}, which a saved zoo embedding "
                "cannot refer to; save it first, and load it from there"
            )
        references.append({"path": str(absolute_path(path)), "sha256": digest})
    return references


def load_references(references: list[dict[str, str]]) -> list[Predicts]:
    """Load members by their paths and digests.

    Raises:
        LearnerError: If a member's file has moved or changed, or cannot be loaded.
    """
    members: list[Predicts] = []
    for reference in references:
        path = Path(reference["path"])
        if weight_digest(path) != reference["sha256"]:
            raise LearnerError(
                f"the zoo member {path} has moved or changed since the zoo embedding was saved; restore the member, or "
                "create the zoo embedding again"
            )
        try:
            members.append(load_member(read_member_config(path)))
        except ZooMemberError as error:
            raise LearnerError(str(error)) from error
    return members
