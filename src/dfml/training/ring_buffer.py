"""Slots (positions) of a ring buffer, in which the newest entries replace the oldest.

Shared by `dfml.training.distillation_buffer.DistillationBuffer` and `dfml.training.task_memory.TaskMemory`.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def newest_slots(written: int, capacity: int) -> Int64[Tensor, " slots"]:
    """Slots of a ring buffer that hold an entry, newest first; entry i was written to slot `i % capacity`.

    Args:
        written: Number of entries that were ever added.
        capacity: Number of slots, at least 1.
    """
    return (written - torch.arange(1, min(written, capacity) + 1)) % capacity
