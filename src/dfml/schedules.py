"""Learning-rate schedules: shares of the highest rate as functions of the progress."""

from __future__ import annotations

import math


def half_cosine(progress: float) -> float:
    """The share of a learning rate that falls from 1 to 0 along half a cosine (Loshchilov and Hutter 2017).

    Args:
        progress: The fraction of the steps that is done, in [0, 1].
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))
