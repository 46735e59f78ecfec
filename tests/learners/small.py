"""Small learners and episodes for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor

from dfml.learners import LearnerConfig, create_learner
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import EpisodeOutcome, GradientLearner
from tests.factories import PREPROCESSING, images

WAY = 3
KINDS = ("maml", "anil", "protonet")


def gradient_learner(
    protocol: str = "strict", dtype: torch.dtype = torch.float32, **settings: object
) -> GradientLearner:
    """Untrained learner of three classes, MAML unless `kind` is given, whose head starts from random weights."""
    config = LearnerConfig(**{"head_start": "random", **settings})  # type: ignore[arg-type]
    learner = create_learner(config, PREPROCESSING, way=WAY, protocol=protocol, seed=1)  # type: ignore[arg-type]
    learner.parameters = {name: value.to(dtype) for name, value in learner.parameters.items()}
    learner.running_statistics = {name: value.to(dtype) for name, value in learner.running_statistics.items()}
    return learner


def noise_episode(dtype: torch.dtype = torch.float32, shot: int = 2) -> Episode:
    """Episode of three classes of noise, with three query images per class."""
    support, query = torch.arange(WAY).repeat_interleave(shot), torch.arange(WAY).repeat_interleave(3)
    return Episode(images(WAY * shot, 1, dtype=dtype), support, images(WAY * 3, 2, dtype=dtype), query)


def outcome_and_gradient(learner: GradientLearner, episode: Episode) -> tuple[EpisodeOutcome, dict[str, Tensor]]:
    """Outcome of an episode, and the gradient of its loss to every weight (zero where there is none)."""
    parameters = {name: value.requires_grad_() for name, value in learner.parameters.items()}
    outcome = learner.episode_loss(parameters, learner.running_statistics, episode)
    gradients = torch.autograd.grad(outcome.loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
    return outcome, dict(zip(parameters, gradients, strict=True))
