"""What methods without meta-training share: an untrained learner, and a run that is finished before it begins."""

from __future__ import annotations

import torch

from dfml.learners import LearnerConfig, create_learner
from dfml.learners.base import MetaLearner
from dfml.learners.gradient_based import GradientLearner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class AdaptationConfig(TrainingConfig):
    """No meta-training; the papers' test-time adaptation, ten inner steps of learning rate 0.01."""

    iterations: int = 0
    learner: LearnerConfig = LearnerConfig(inner_steps=10, test_inner_steps=10)


class Finished(TrainingRun):
    """A run of no meta-iterations: its learner is there from the start."""

    def __init__(self, learner: MetaLearner) -> None:
        self._learner = learner

    def learner(self) -> MetaLearner:
        """See `TrainingRun.learner`."""
        return self._learner


def untrained_learner(config: AdaptationConfig, zoo: Zoo, device: torch.device, name: str) -> GradientLearner:
    """A learner with random weights; of the zoo only the image size and normalisation are used."""
    return create_learner(
        config.learner, zoo.preprocessing(), way=config.way, protocol=config.protocol, seed=config.seed, name=name
    ).to(device)
