"""Learners with a fixed embedding: adaptation is the mean of each class, prediction the nearest of them by cosine."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.protonet import class_means

# Cosines lie in [-1, 1]; a softmax over them needs a scale to be able to say that it is sure.
_SCALE = 10.0


class EmbeddingLearner(MetaLearner):
    """An image's embedding does not depend on the support set, so an evaluation embeds every image once."""

    @abstractmethod
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """Embeddings of images in [0, 1] of the learner's size."""

    @abstractmethod
    def classifier(self, means: Float[Tensor, "way features"], names: tuple[str, ...]) -> FewShotClassifier:
        """A classifier from the classes' mean embeddings."""

    @torch.no_grad()
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """See `MetaLearner.fit_support`."""
        return self.classifier(class_means(self.embed(images), labels, len(names)), names)


def cosine_scores(
    features: Float[Tensor, "images features"], means: Float[Tensor, "way features"]
) -> Float[Tensor, "images way"]:
    """Scaled cosine of every image with every class mean."""
    return _SCALE * functional.normalize(features, dim=1) @ functional.normalize(means, dim=1).T
