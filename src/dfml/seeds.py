"""Random generators that are derived from a seed and a purpose.

A generator is identified by what its numbers are for, such as (seed, "episode", 17, 3), not by how many numbers were
drawn before. Results therefore do not depend on batching, on the number of workers or on interruptions, and checkpoints
need no generator state.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def _sequence(seed: int, purpose: tuple[str | int, ...]) -> np.random.SeedSequence:
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.SeedSequence(seed, spawn_key=key)


def rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """Create a NumPy generator for one purpose.

    Args:
        seed: Seed of the run, at least 0.
        *purpose: What the numbers are for: strings, and integers of at least 0.
    """
    return np.random.default_rng(_sequence(seed, purpose))


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Create a torch generator for one purpose; see `rng`. It is on the CPU, so its numbers depend on no device."""
    state = _sequence(seed, purpose).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def integer(seed: int, *purpose: str | int) -> int:
    """Draw a seed, in [0, 2**31), for code that takes no generator; see `rng`."""
    return int(torch.randint(2**31, (1,), generator=generator(seed, *purpose)))
