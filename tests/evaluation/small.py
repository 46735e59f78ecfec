"""A small data set and learners for the tests of this folder."""

from __future__ import annotations

from typing import Any

from dfml.learners import LearnerConfig, MetaLearner, create_learner
from tests.factories import PREPROCESSING, coloured_dataset

DATA = coloured_dataset(classes=6, per_class=20)
QUICK: dict[str, Any] = {"way": 3, "shot": 2, "query": 5, "episodes": 12}


def untrained_protonet(protocol: str = "strict", seed: int = 0) -> MetaLearner:
    """Untrained ProtoNet; the classes of `DATA` differ in colour, so it is better than chance."""
    config = LearnerConfig(kind="protonet")
    return create_learner(config, PREPROCESSING, way=3, protocol=protocol, seed=seed)  # type: ignore[arg-type]
