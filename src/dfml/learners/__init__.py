"""How a learner adapts to a support set."""

from __future__ import annotations

from dfml.learners.anil import ANIL
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingLearner
from dfml.learners.gradient import GradientLearner, LearnerConfig
from dfml.learners.maml import MAML
from dfml.learners.protonet import ProtoNet
from dfml.zoo.classifier import Preprocessing

__all__ = [
    "ANIL",
    "MAML",
    "EmbeddingLearner",
    "FewShotClassifier",
    "LearnerConfig",
    "MetaLearner",
    "ProtoNet",
    "create_learner",
]

_KINDS: dict[str, type[GradientLearner]] = {kind.kind: kind for kind in (MAML, ANIL, ProtoNet)}


def create_learner(
    config: LearnerConfig,
    preprocessing: Preprocessing,
    *,
    way: int = 5,
    protocol: ProtocolName = "strict",
    seed: int = 0,
    name: str | None = None,
) -> GradientLearner:
    """An untrained learner of the kind that the config names; see `GradientLearner`."""
    return _KINDS[config.kind](config, preprocessing, way=way, protocol=protocol, seed=seed, name=name)
