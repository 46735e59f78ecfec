"""Learners with a fixed embedding: adaptation is a linear head in closed form, whatever the number of classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.errors import LearnerError
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier, find_kind, read_preprocessing, strip
from dfml.learners.episode import episode_labels
from dfml.learners.protonet import prototypes
from dfml.zoo.pretrained import Preprocessing

HeadFit = Literal["mean", "ridge"]
"""How a head is fitted to a support set's embeddings. `mean`: the nearest class mean, by cosine. `ridge`: ridge
regression of the labels on unit-norm embeddings (Bertinetto et al. 2019), which weighs what tells the classes apart;
with one image a class both are nearly the same."""

# Cosines lie in [-1, 1]; a softmax over them needs a scale to be able to say that it is sure.
_SCALE = 10.0
_RIDGE = 1.0
# Softer answers say more of the classes that are not meant; chosen on the validation classes of CIFAR-FS.
_SOFTER = 2.0


class EmbeddingLearner(MetaLearner):
    """An image's embedding does not depend on the support set, so an evaluation embeds every image once.

    Attributes:
        fit: How heads are fitted.
    """

    fit: HeadFit = "mean"

    @abstractmethod
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """Embeddings of images in [0, 1] of the learner's size."""

    @torch.no_grad()
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """See `MetaLearner.fit_support`."""
        head = fit_head(self.embed(images), labels, len(names), self.fit)
        return EmbeddingClassifier(self, head, names, self.preprocessing)


class EmbeddingClassifier(FewShotClassifier):
    """A learner's embedding under a linear head.

    Args:
        learner: Who embeds.
        head: Of `fit_head`.
        labels: One name a class.
        preprocessing: The learner's.
    """

    kind: ClassVar[str] = "embedding"

    def __init__(
        self,
        learner: EmbeddingLearner,
        head: Float[Tensor, "way features"],
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
    ) -> None:
        self.learner = learner
        self.head = head
        self.device = head.device
        self.labels = labels
        self.preprocessing = preprocessing

    def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        """See `embedding_scores`."""
        return embedding_scores(self.learner.embed(images), self.head)

    def get_config(self) -> dict[str, Any]:
        """See `FewShotClassifier.get_config`; holds the whole config of the learner."""
        return {**super().get_config(), "learner": self.learner.get_config()}

    def state_dict(self) -> dict[str, Tensor]:
        """See `FewShotClassifier.state_dict`."""
        return {"head": self.head, **{f"learner.{name}": value for name, value in self.learner.state_dict().items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> EmbeddingClassifier:
        """See `FewShotClassifier.from_config`.

        Raises:
            LearnerError: If the learner is of an unknown kind, or of one that is no `EmbeddingLearner`.
        """
        name = config["learner"]["kind"]
        kind = find_kind(MetaLearner._kinds, name)
        learner = kind.from_config(config["learner"], strip(state_dict, "learner.")) if kind else None
        if not isinstance(learner, EmbeddingLearner):
            raise LearnerError(
                f"expected a classifier that embeds images with an EmbeddingLearner, found a learner of the kind "
                f"{name!r}; load it with the release of dfml that saved it, or adapt it again"
            )
        return cls(learner, state_dict["head"], tuple(config["labels"]), read_preprocessing(config["preprocessing"]))


def centred_probabilities(logits: Float[Tensor, "*images outputs"]) -> Float[Tensor, "*images outputs"]:
    """What a classifier leans to or away from: its probabilities at temperature 2, less those of guessing.

    As an embedding they are ahead of plain probabilities by half a point (docs/results/zoo-student.md): a member that
    has no representation of an image has no part in a cosine.
    """
    return (logits / _SOFTER).softmax(dim=-1) - 1.0 / logits.shape[-1]


def fit_head(
    features: Float[Tensor, "support features"], labels: Int64[Tensor, "support"], way: int, fit: HeadFit
) -> Float[Tensor, "way features"]:
    """A row a class, whose product with an image's unit-norm embedding is the image's score; see `HeadFit`."""
    if fit == "mean":
        return functional.normalize(prototypes(features, labels, way), dim=1)
    rows = functional.normalize(features, dim=1)
    targets = functional.one_hot(labels, way).to(rows.dtype)
    # The dual form: a support set has fewer images than an embedding has features.
    kernel = rows @ rows.T + _RIDGE * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    head: Tensor = torch.linalg.solve(kernel, targets).T @ rows
    return head


def embedding_scores(
    features: Float[Tensor, "images features"], head: Float[Tensor, "way features"]
) -> Float[Tensor, "images way"]:
    """Scaled scores of images under a head of `fit_head`."""
    return _SCALE * functional.normalize(features, dim=1) @ head.T


def episode_loss(embeddings: Float[Tensor, "images features"], way: int, shot: int, query: int) -> Float[Tensor, ""]:
    """Cross-entropy of an episode's query images under the nearest class mean of its support images; differentiable.

    Args:
        embeddings: `shot` support images of each class, class by class, then `query` query images of each; more may
            follow.
        way: Classes.
        shot: Support images a class.
        query: Query images a class.
    """
    support, of_query = embeddings[: way * shot], embeddings[way * shot : way * (shot + query)]
    head = fit_head(support, episode_labels(way, shot, embeddings.device), way, "mean")
    return functional.cross_entropy(embedding_scores(of_query, head), episode_labels(way, query, embeddings.device))
