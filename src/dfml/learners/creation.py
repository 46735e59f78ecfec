"""Learners and calibrations by the names that settings and commands have for them."""

from __future__ import annotations

from dfml.learners.anil import ANIL
from dfml.learners.base import Calibration, ProtocolName
from dfml.learners.calibration import ICFIL
from dfml.learners.gradient_based import GradientLearner, LearnerConfig
from dfml.learners.maml import MAML
from dfml.learners.protonet import ProtoNet
from dfml.zoo.pretrained import Preprocessing

CALIBRATIONS: dict[str, type[Calibration]] = {kind.name: kind for kind in (ICFIL,)}
"""Calibrations by their name on the command line."""

_KINDS: dict[str, type[GradientLearner]] = {learner.kind: learner for learner in (MAML, ANIL, ProtoNet)}


def create_learner(
    config: LearnerConfig,
    preprocessing: Preprocessing,
    *,
    way: int = 5,
    protocol: ProtocolName = "strict",
    seed: int = 0,
    name: str | None = None,
) -> GradientLearner:
    """Create an untrained learner of the kind that the config names.

    Args:
        config: Kind (`maml`, `anil` or `protonet`), backbone and inner loop.
        preprocessing: Image size, mean and standard deviation of the network's input.
        way: Number of rows of the head, which is the number of classes per training episode; default 5.
        protocol: Batch-norm rule of training and adaptation; see `MetaLearner`.
        seed: Seed of the initial weights.
        name: Name in tables; default the learner's kind.

    Raises:
        UsageError: If the backbone is unknown, or cannot take images of this size.
    """
    return _KINDS[config.kind](config, preprocessing, way=way, protocol=protocol, seed=seed, name=name)
