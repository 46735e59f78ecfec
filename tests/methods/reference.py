"""Representations of members computed directly from their networks, to compare embeddings with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfml.images import resize_and_crop
from dfml.learners.zoo_embedding import Representation
from dfml.zoo import PretrainedClassifier


def member_representation(classifier: PretrainedClassifier, images: Tensor, representation: Representation) -> Tensor:
    """One row per image, in [0, 1] and of any size."""
    inputs = classifier.preprocessing.normalise(resize_and_crop(images, classifier.preprocessing.size))
    network: Any = classifier.network
    logits: Tensor = network(inputs)
    if representation == "features":
        features: Tensor = network.forward_head(network.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(network.get_classifier()(features), logits)
        return features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if representation == "centred":
        weights = (logits / 2).exp()
        return weights / weights.sum(dim=1, keepdim=True) - 1 / len(classifier.labels)
    return logits.softmax(dim=1) if representation == "probabilities" else logits
