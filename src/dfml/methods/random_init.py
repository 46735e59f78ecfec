"""`random_init` and `random_embedding`: no zoo at all. Whatever does not beat them has learned nothing."""

from __future__ import annotations

from typing import ClassVar

import torch

from dfml.learners import LearnerConfig
from dfml.methods.base import Method
from dfml.methods.untrained import AdaptationConfig, Finished, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class RandomInit(Method):
    """An untrained backbone, adapted by ten inner steps of learning rate 0.01."""

    name: ClassVar[str] = "random_init"
    config_type: ClassVar[type[TrainingConfig]] = AdaptationConfig
    config: AdaptationConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`; of the zoo only the image size and normalisation are used."""
        return Finished(untrained_learner(self.config, zoo, device, self.name))


class RandomEmbeddingConfig(AdaptationConfig):
    """Settings of `random_embedding`."""

    learner: LearnerConfig = LearnerConfig(kind="protonet")


class RandomEmbedding(RandomInit):
    """The nearest class mean among an untrained backbone's features."""

    name: ClassVar[str] = "random_embedding"
    config_type: ClassVar[type[TrainingConfig]] = RandomEmbeddingConfig
