"""`zoo_embedding`: the outputs of all members, side by side, embed an image; a head is fitted to the support set.

A strong baseline without training. Its cost: all members are needed at test time and run on every image. A trained
learner of one network is judged by how close it comes to this one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveInt

from dfml.learners.embedding import HeadFit
from dfml.learners.zoo_embedding import Representation, ZooEmbeddingLearner
from dfml.methods.base import Method
from dfml.methods.untrained import FinishedRun
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class ZooEmbeddingConfig(TrainingConfig):
    """Settings of `zoo_embedding`."""

    iterations: int = 0
    """Number of meta-iterations; this method does not train."""
    img_size: PositiveInt | None = None
    """Side length in pixels at which the learner works: images are resized to it first, then by each member to its own
    input size; None: the members' most common input size, the larger one on a tie."""
    representation: Representation = "probabilities"
    """Part of an image's embedding that a member contributes: its class `probabilities`; `centred`, these at
    temperature 2 minus the uniform distribution; its `logits`; or its unit-norm `features`."""
    fit: HeadFit = "mean"
    """Classifier head of a few-shot task. `mean`: nearest class mean by cosine similarity. `ridge`: ridge
    regression."""


class ZooEmbedding(Method):
    """Outputs of all members as an embedding, with nearest class means or ridge regression."""

    name: ClassVar[str] = "zoo_embedding"
    config_type: ClassVar[type[TrainingConfig]] = ZooEmbeddingConfig
    config: ZooEmbeddingConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        config = self.config
        learner = ZooEmbeddingLearner(
            list(zoo),
            zoo.preprocessing(config.img_size),
            representation=config.representation,
            fit=config.fit,
            way=config.way,
            name=self.name,
        )
        return FinishedRun(learner.to(device))
