"""Few-shot learners, the classifiers that they adapt to a support set, episodes, and calibration (ICFIL).

Names are imported when they are first used, so that a saved classifier loads only what its kind needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfml.late_imports import late_names

if TYPE_CHECKING:
    from dfml.learners.anil import ANIL
    from dfml.learners.base import Calibration, MetaLearner, ProtocolName
    from dfml.learners.calibration import ICFIL
    from dfml.learners.calibration_config import ICFILConfig
    from dfml.learners.classifier import FewShotClassifier
    from dfml.learners.creation import CALIBRATIONS, create_learner
    from dfml.learners.embedding import EmbeddingLearner
    from dfml.learners.gradient_based import LearnerConfig
    from dfml.learners.maml import MAML
    from dfml.learners.protonet import ProtoNet
    from dfml.learners.student import Student
    from dfml.learners.zoo_embedding import ZooEmbeddingLearner
    from dfml.zoo.pretrained import Preprocessing

# Module -> its public names. The imports above repeat them for type checkers.
_HOMES = {
    "dfml.learners.anil": ("ANIL",),
    "dfml.learners.base": ("Calibration", "MetaLearner", "ProtocolName"),
    "dfml.learners.calibration": ("ICFIL",),
    "dfml.learners.calibration_config": ("ICFILConfig",),
    "dfml.learners.classifier": ("FewShotClassifier",),
    "dfml.learners.creation": ("CALIBRATIONS", "create_learner"),
    "dfml.learners.embedding": ("EmbeddingLearner",),
    "dfml.learners.gradient_based": ("LearnerConfig",),
    "dfml.learners.maml": ("MAML",),
    "dfml.learners.protonet": ("ProtoNet",),
    "dfml.learners.student": ("Student",),
    "dfml.learners.zoo_embedding": ("ZooEmbeddingLearner",),
    "dfml.zoo.pretrained": ("Preprocessing",),
}

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
    "Preprocessing",
    "ProtoNet",
    "ProtocolName",
    "Student",
    "ZooEmbeddingLearner",
    "create_learner",
]

__getattr__ = late_names(__name__, _HOMES)
