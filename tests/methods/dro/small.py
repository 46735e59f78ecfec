"""Weights of members, for the tests of `dro`."""

from __future__ import annotations

from dfml.learners.network import Parameters
from dfml.zoo import Zoo


def backbones(members: Zoo) -> list[Parameters]:
    """Weights of every member's backbone, as the learner names them."""
    weights = [dict(each.network.named_parameters()) for each in members]
    return [{f"backbone.{n}": v for n, v in each.items() if not n.startswith("head.")} for each in weights]
