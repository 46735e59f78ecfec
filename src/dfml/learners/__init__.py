"""How a learner adapts to a support set."""

from __future__ import annotations

from dfml.learners.anil import ANIL
from dfml.learners.base import Calibration, MetaLearner, ProtocolName
from dfml.learners.calibration import ICFIL, ICFILConfig
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingLearner
from dfml.learners.gradient_based import GradientLearner, LearnerConfig
from dfml.learners.maml import MAML
from dfml.learners.protonet import ProtoNet
from dfml.learners.student import Student
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.zoo.pretrained import Preprocessing

__all__ = [
    "ANIL",
    "CALIBRATIONS",
    "ICFIL",
    "MAML",
    "Calibration",
    "EmbeddingLearner",
    "FewShotClassifier",
    "ICFILConfig",
    "LearnerConfig",
    "MetaLearner",
    "ProtoNet",
    "Student",
    "ZooEmbeddingLearner",
    "create_learner",
]

CALIBRATIONS: dict[str, type[Calibration]] = {kind.name: kind for kind in (ICFIL,)}

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
