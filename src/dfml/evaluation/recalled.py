"""The images that a run ended with, out of its newest checkpoint: what members recalled for the learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dfml.images import to_float
from dfml.learners.base import MetaLearner
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.training.checkpoint import load_checkpoint
from dfml.training.run_folder import RunFolder

ImagesOf = Callable[[int, int], Tensor]
"""(a class, numbered as in the zoo; at most so many) -> images in [0, 1]; fewer, or none, where the run has no more."""


def recalled_images(run: RunFolder, method: str, learner: MetaLearner) -> ImagesOf | None:
    """The images of any class, as they were at the end of a run.

    Args:
        run: Where it was.
        method: Its name.
        learner: What came out of it.

    Returns:
        None for a run without a checkpoint, or of a method whose checkpoints hold no images.

    Raises:
        RunError: If the newest checkpoint is damaged.
    """
    newest = run.newest_checkpoint()
    if method not in _IMAGES or newest is None:
        return None
    held, images_of = _IMAGES[method]
    _, state = load_checkpoint(newest, torch.device("cpu"))
    return (lambda index, count: images_of(state.tensors, index, count, learner)) if held in state.tensors else None


def _from_dynamic_dataset(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """PURER's images of one class."""
    return learner.preprocessing.denormalise(tensors["pixels"][index, :count]).clamp(0.0, 1.0)


def _from_memory(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """FREE's newest images of one class."""
    ring = tensors["memory.images"][index]
    return to_float(ring[_newest_first(len(ring), int(tensors["memory.written"][index]))[:count]])


def _from_pool(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """The zoo student's newest images of one class; none if its members were not drawn lately."""
    ring = tensors["buffer.images"]
    slots = _newest_first(len(ring), int(tensors["buffer.written"]))
    return to_float(ring[slots[tensors["buffer.classes"][slots] == index][:count]])


def _newest_first(capacity: int, written: int) -> Tensor:
    """The slots of a ring buffer that are in use."""
    return (written - torch.arange(1, min(written, capacity) + 1)) % capacity


_IMAGES: dict[str, tuple[str, Callable[[Mapping[str, Tensor], int, int, MetaLearner], Tensor]]] = {
    ZooStudent.name: ("buffer.images", _from_pool),
    PURER.name: ("pixels", _from_dynamic_dataset),
    FREE.name: ("memory.images", _from_memory),
}
"""Method -> the tensor that its checkpoints have, and how to read it."""
