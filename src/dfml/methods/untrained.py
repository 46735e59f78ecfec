"""Parts of methods without meta-training: their settings, a run without meta-iterations, an untrained learner."""

from __future__ import annotations

import torch

from dfml.learners import LearnerConfig, create_learner
from dfml.learners.base import MetaLearner
from dfml.learners.gradient_based import GradientLearner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class AdaptationConfig(TrainingConfig):
    """Settings of methods that only adapt; as at test time in PURER and FREE, with ten inner steps at rate 0.01."""

    iterations: int = 0
    """Number of meta-iterations; this method does not train."""
    learner: LearnerConfig = LearnerConfig(inner_steps=10, test_inner_steps=10)
    """Learner, and how it adapts to a support set."""


class FinishedRun(TrainingRun):
    """A run without meta-iterations, whose learner exists from the start.

    Args:
        learner: The learner.
    """

    def __init__(self, learner: MetaLearner) -> None:
        self._learner = learner

    def learner(self) -> MetaLearner:
        """See `TrainingRun.learner`."""
        return self._learner


def untrained_learner(config: AdaptationConfig, zoo: Zoo, device: torch.device, name: str) -> GradientLearner:
    """A learner with random weights.

    Args:
        config: Settings of the method.
        zoo: The zoo; only its image size and normalisation are used.
        device: Device of the learner.
        name: Name of the learner in tables.
    """
    return create_learner(
        config.learner,
        zoo.preprocessing(config.img_size),
        way=config.way,
        protocol=config.protocol,
        seed=config.seed,
        name=name,
    ).to(device)
