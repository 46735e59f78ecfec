"""The images that a run ended with, out of its newest checkpoint: what members recalled for the learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.evaluation.protocol import to_float
from dfml.learners.base import MetaLearner
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.training.checkpoint import load_checkpoint
from dfml.training.folder import RunFolder

_ImagesOf = Callable[[Mapping[str, Tensor], int, int, MetaLearner], Tensor]
"""(a checkpoint's tensors, a class of the zoo, at most so many, the learner) -> images in [0, 1]."""


def recalled_images(
    run: RunFolder, learner: MetaLearner, classes: Sequence[int], count: int
) -> list[Float[Tensor, "_images 3 _size _size"]]:
    """Some images of some classes, as they were at the end of a run.

    Args:
        run: Of the method that the learner is named after.
        learner: What came out of it.
        classes: Numbered as in the zoo.
        count: Images of a class.

    Returns:
        Class by class at most `count` images in [0, 1]; fewer, or none, where the run did not keep as many. Nothing
        at all for a run without a checkpoint, or of a method whose checkpoints hold no images.

    Raises:
        RunError: If the newest checkpoint is damaged.
    """
    images_of, newest = _IMAGES.get(learner.name), run.newest_checkpoint()
    if images_of is None or newest is None:
        return []
    _, state = load_checkpoint(newest, torch.device("cpu"))
    return [images_of(state.tensors, index, count, learner) for index in classes]


def _from_dynamic_dataset(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """PURER's images of one class."""
    return learner.preprocessing.restore(tensors["pixels"][index, :count]).clamp(0.0, 1.0)


def _from_memory(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """FREE's newest images of one class."""
    ring = tensors["memory.images"][index]
    return to_float(ring[_newest_first(len(ring), int(tensors["memory.written"][index]))[:count]])


def _from_pool(tensors: Mapping[str, Tensor], index: int, count: int, learner: MetaLearner) -> Tensor:
    """The zoo student's newest images of one class; none if its members were not drawn lately."""
    ring = tensors["pool.images"]
    slots = _newest_first(len(ring), int(tensors["pool.written"]))
    return to_float(ring[slots[tensors["pool.classes"][slots] == index][:count]])


def _newest_first(capacity: int, written: int) -> Tensor:
    """The slots of a ring buffer that are in use."""
    return (written - torch.arange(1, min(written, capacity) + 1)) % capacity


_IMAGES: dict[str, _ImagesOf] = {
    ZooStudent.name: _from_pool,
    PURER.name: _from_dynamic_dataset,
    FREE.name: _from_memory,
}
