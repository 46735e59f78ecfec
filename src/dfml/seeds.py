"""Random generators, spawned from one seed by purpose.

A draw is named by what it is for, (seed, "episode", 17, 3), never by how many draws came before it. Nothing therefore
depends on chunking, on the number of workers, or on a run having been interrupted: a resumed run needs no saved
generator state.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def _sequence(seed: int, purpose: tuple[str | int, ...]) -> np.random.SeedSequence:
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.SeedSequence(seed, spawn_key=key)


def rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for one purpose.

    Args:
        seed: The run's seed, at least 0.
        purpose: What the draws are for; strings and integers of at least 0.
    """
    return np.random.default_rng(_sequence(seed, purpose))


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A torch generator (on the CPU, so that a draw is the same on every device) for one purpose; see `rng`."""
    state = _sequence(seed, purpose).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def integer(seed: int, *purpose: str | int) -> int:
    """For what takes a seed instead of a generator; see `rng`."""
    return int(torch.randint(2**31, (1,), generator=generator(seed, *purpose)))
