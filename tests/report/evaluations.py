"""Evaluations with made-up accuracies."""

from __future__ import annotations

import numpy as np

from dfml.evaluation.protocol import Evaluation


def evaluation(
    name: str = "purer", mean: float = 0.6, *, episodes: int = 40, note: str = "", seed: int = 0
) -> Evaluation:
    """Normally distributed accuracies around a mean; the noise depends on the learner's name."""
    noise = np.random.default_rng([seed, *name.encode()]).normal(0, 0.05, episodes)
    return Evaluation(
        name=name,
        accuracies=tuple((mean + noise).clip(0, 1).tolist()),
        protocol="strict",
        way=5,
        shot=1,
        query=15,
        seed=seed,
        dataset="glyphs/test",
        seconds=1.25,
        adapt_ms=3.456,
        predict_ms=0.1234,
        note=note,
        versions={"python": "3.12", "torch": "2.10"},
    )
