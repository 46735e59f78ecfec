"""Learning-rate schedules: fractions of the highest learning rate as functions of the progress."""

from __future__ import annotations

import math


def half_cosine(progress: float) -> float:
    """Half-cosine schedule (SGDR, Loshchilov and Hutter, ICLR 2017, without restarts).

    Args:
        progress: Fraction of the steps that is finished, in [0, 1].

    Returns:
        Fraction of the highest learning rate; it falls from 1 to 0.
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))
