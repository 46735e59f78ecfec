"""`random_init` and `random_embedding`: no zoo at all. Whatever does not beat them has learned nothing."""

from __future__ import annotations

from typing import ClassVar

import torch

from dfml.learners import LearnerConfig, create_learner
from dfml.methods.average import AverageConfig, Finished
from dfml.methods.base import Method
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class RandomInit(Method):
    """An untrained backbone, adapted like `average`: ten inner steps of learning rate 0.01."""

    name: ClassVar[str] = "random_init"
    config_type: ClassVar[type[TrainingConfig]] = AverageConfig
    config: AverageConfig

    def begin(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.begin`; of the zoo only the image size and normalisation are used."""
        config = self.config
        return Finished(
            create_learner(
                config.learner,
                zoo.preprocessing(),
                way=config.way,
                protocol=config.protocol,
                seed=config.seed,
                name=self.name,
            ).to(device)
        )


class RandomEmbeddingConfig(AverageConfig):
    """Settings of `random_embedding`."""

    learner: LearnerConfig = LearnerConfig(kind="protonet")


class RandomEmbedding(RandomInit):
    """The nearest class mean among an untrained backbone's features."""

    name: ClassVar[str] = "random_embedding"
    config_type: ClassVar[type[TrainingConfig]] = RandomEmbeddingConfig
