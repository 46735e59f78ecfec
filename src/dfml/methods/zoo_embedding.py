"""`zoo_embedding`: ask all members for their representation, and take the nearest class mean.

The softmax outputs of all members side by side are an image's embedding. Nothing is trained; every member must be kept
and run on every image. A learner in one network has to beat this to be worth its training.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from dfml.learners.embedding import HeadFit
from dfml.learners.zoo_embedding import Representation, ZooEmbeddingLearner
from dfml.methods.base import Method
from dfml.methods.untrained import Finished
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class ZooEmbeddingConfig(TrainingConfig):
    """Settings of `zoo_embedding`."""

    iterations: int = 0
    representation: Representation = "probabilities"
    """What embeds an image: every member's `probabilities`, `centred` (softened probabilities less the
    uniform distribution), `logits`, or unit-norm `features`, side by side."""
    fit: HeadFit = "mean"
    """How heads are fitted to a support set: `mean`, the nearest class mean by cosine, or `ridge` regression."""


class ZooEmbedding(Method):
    """Nearest class mean, by cosine, of all members' softmax outputs."""

    name: ClassVar[str] = "zoo_embedding"
    config_type: ClassVar[type[TrainingConfig]] = ZooEmbeddingConfig
    config: ZooEmbeddingConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        config = self.config
        learner = ZooEmbeddingLearner(
            list(zoo),
            zoo.preprocessing(),
            representation=config.representation,
            fit=config.fit,
            way=config.way,
            name=self.name,
        )
        return Finished(learner.to(device))
