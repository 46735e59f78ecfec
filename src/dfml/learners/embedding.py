"""Learners with a fixed embedding: adaptation fits a linear head in closed form, for any number of classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from dfml.errors import LearnerError
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier, read_preprocessing, select_prefix
from dfml.learners.episode import episode_labels
from dfml.learners.prototypes import prototypes
from dfml.learners.saving import find_kind
from dfml.zoo.pretrained import Preprocessing

HeadFit = Literal["mean", "ridge"]
"""How the head is fitted to the embeddings of a support set. `mean`: nearest prototype by cosine. `ridge`: ridge
regression of the one-hot labels on unit-norm embeddings (R2D2: Bertinetto et al., "Meta-learning with Differentiable
Closed-form Solvers", ICLR 2019), which emphasises the features that separate the classes; with one image per class both
are nearly the same."""

# Cosines lie in [-1, 1]: without a scale, a softmax over them would be nearly uniform.
_SCALE = 10.0
# Weight of the L2 penalty of the ridge regression, for unit-norm embeddings.
_RIDGE = 1.0
# Softened probabilities hold more about the other classes; chosen on the validation classes of CIFAR-FS.
_TEMPERATURE = 2.0


class EmbeddingLearner(MetaLearner):
    """Learner whose embedding of an image does not depend on the support set; adaptation fits the head alone.

    An evaluation can therefore embed every image once, instead of once per episode.

    Attributes:
        fit: How the head is fitted to a support set; default `mean`.
    """

    fit: HeadFit = "mean"

    @abstractmethod
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """Embed images.

        Args:
            images: Floats in [0, 1] of the learner's size, on its device.
        """

    def tracing_problem(self) -> str | None:
        """Reason why PyTorch cannot trace the embedding, so that it cannot be exported; None: there is none."""
        return None

    @torch.no_grad()
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """See `MetaLearner.fit_support`."""
        head = fit_head(self.embed(images), labels, len(names), self.fit)
        return EmbeddingClassifier(self, head, names, self.preprocessing)


class EmbeddingClassifier(FewShotClassifier):
    """Linear head on the embedding of an `EmbeddingLearner`.

    Args:
        learner: Learner that embeds images.
        head: One row per class, from `fit_head`.
        labels: Class names, one per row of the head.
        preprocessing: Preprocessing of the learner.
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
        """Compute logits; see `embedding_scores`."""
        return embedding_scores(self.learner.embed(images), self.head)

    def sharing_problem(self) -> str | None:
        """See `Shareable.sharing_problem`."""
        return self.learner.sharing_problem()

    def inference_module(self) -> nn.Module:
        """See `FewShotClassifier.inference_module`."""
        if problem := self.learner.tracing_problem():
            raise LearnerError(f"the classifier cannot be exported: {problem}")
        return super().inference_module()

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
            LearnerError: If the learner is incomplete, of an unknown kind, or of one that is no `EmbeddingLearner`.
        """
        name = config["learner"]["kind"]
        kind = find_kind(MetaLearner._kinds, name)
        if kind is None or not issubclass(kind, EmbeddingLearner):
            raise LearnerError(
                f"expected a classifier that embeds images with an EmbeddingLearner, found a learner of the kind "
                f"{name!r}; load it with the release of dfml that saved it, or adapt it again"
            )
        learner: MetaLearner = kind.from_config(config["learner"], select_prefix(state_dict, "learner."))
        assert isinstance(learner, EmbeddingLearner)
        return cls(learner, state_dict["head"], tuple(config["labels"]), read_preprocessing(config["preprocessing"]))


def centred_probabilities(logits: Float[Tensor, "*images outputs"]) -> Float[Tensor, "*images outputs"]:
    """Compute class probabilities at temperature 2, minus the uniform distribution.

    As an embedding they are half a point more accurate than plain probabilities (docs/results/log/2026-11-21.md): a
    member that predicts the uniform distribution for an image contributes nothing to a cosine.
    """
    return (logits / _TEMPERATURE).softmax(dim=-1) - 1.0 / logits.shape[-1]


def fit_head(
    features: Float[Tensor, "support features"], labels: Int64[Tensor, "support"], way: int, fit: HeadFit
) -> Float[Tensor, "way features"]:
    """Fit a linear head in closed form.

    Args:
        features: Embeddings of the support images, of any length (they are normalised).
        labels: Labels of the support images, from 0 to `way - 1`; every class has at least one image.
        way: Number of classes.
        fit: `mean` or `ridge`; see `HeadFit`.

    Returns:
        One row per class; its product with the unit-norm embedding of an image is the image's score.
    """
    if fit == "mean":
        return functional.normalize(prototypes(features, labels, way), dim=1)
    rows = functional.normalize(features, dim=1)
    targets = functional.one_hot(labels, way).to(rows.dtype)
    # The dual form solves a system of support images, of which there are fewer than features.
    kernel = rows @ rows.T + _RIDGE * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    head: Tensor = torch.linalg.solve(kernel, targets).T @ rows
    return head


def embedding_scores(
    features: Float[Tensor, "images features"], head: Float[Tensor, "way features"]
) -> Float[Tensor, "images way"]:
    """Compute the logits of images: 10 times the product of their unit-norm embeddings with a head of `fit_head`."""
    return _SCALE * functional.normalize(features, dim=1) @ head.T


def episode_loss(embeddings: Float[Tensor, "images features"], way: int, shot: int, query: int) -> Float[Tensor, ""]:
    """Compute the cross-entropy of an episode's query images by cosine to the prototypes of its support images.

    Args:
        embeddings: Embeddings of `shot` support images of each class, class by class, then of `query` query images of
            each class; further rows are ignored. The loss is differentiable in them.
        way: Number of classes.
        shot: Number of support images per class.
        query: Number of query images per class.

    Returns:
        Mean over the query images, in nats.
    """
    support, queries = embeddings[: way * shot], embeddings[way * shot : way * (shot + query)]
    head = fit_head(support, episode_labels(way, shot, embeddings.device), way, "mean")
    return functional.cross_entropy(embedding_scores(queries, head), episode_labels(way, query, embeddings.device))
