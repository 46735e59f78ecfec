"""`random_init` and `random_embedding`: baselines with random weights, which use nothing of the zoo's weights."""

from __future__ import annotations

from typing import ClassVar

import torch

from dfml.learners import LearnerConfig
from dfml.methods.base import Method
from dfml.methods.untrained import AdaptationConfig, FinishedRun, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class RandomInit(Method):
    """A backbone with random weights, adapted by ten inner steps with learning rate 0.01."""

    name: ClassVar[str] = "random_init"
    config_type: ClassVar[type[TrainingConfig]] = AdaptationConfig
    config: AdaptationConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`; only the image size and the normalisation of the zoo are used."""
        return FinishedRun(untrained_learner(self.config, zoo, device, self.name))


class RandomEmbeddingConfig(AdaptationConfig):
    """Settings of `random_embedding`."""

    learner: LearnerConfig = LearnerConfig(kind="protonet")
    """Learner, and how it adapts to a support set."""


class RandomEmbedding(RandomInit):
    """Nearest class means of the features of a backbone with random weights."""

    name: ClassVar[str] = "random_embedding"
    config_type: ClassVar[type[TrainingConfig]] = RandomEmbeddingConfig
