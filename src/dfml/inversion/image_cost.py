"""What one image costs in a pass through a network: memory and operations, counted and not timed.

Counts do not depend on what else the machine does, so what follows from them (chunks of a batch, images of a round) is
the same in every run. For `PretrainedClassifier`s a process counts once per architecture and image size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dfml.inversion.loss import InvertibleModel, resize_to
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.stack import stack_key

_MEASURED: dict[tuple[str, str, int, torch.dtype], int] = {}
_OPERATIONS_PER_BYTE = 16  # see `image_operations`


def bytes_per_image(classifier: InvertibleModel, size: int, dtype: torch.dtype | None = None) -> int:
    """Bytes per image of the tensors that a forward pass keeps for the backward pass, without the weights.

    Args:
        classifier: The model; the statistics of its batch-norm layers are part of the pass.
        size: Height and width of the images that are optimised; they are resized to the model's input.
        dtype: Type of the images; None: that of the model.
    """
    dtype = dtype or _dtype(classifier)

    def measure() -> int:
        sample = _blank(classifier, 2, size, dtype).requires_grad_()
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = {weight.untyped_storage().data_ptr() for weight in _weights_of(classifier)}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            # The result keeps the graph, and so the counted tensors, alive: no address is used twice.
            result = classifier.logits_and_statistics(resize_to(sample, classifier.size))
        del result
        return sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights) // len(sample)

    return _once("bytes", classifier, size, dtype, measure)


def multiply_adds(classifier: InvertibleModel) -> int:
    """Number of multiply-adds of convolutions and matrix products in a forward pass of one image at the input size."""
    dtype = _dtype(classifier)

    def measure() -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            classifier.logits(_blank(classifier, 1, classifier.size, dtype))
        return int(counter.get_total_flops()) // 2

    return _once("multiply-adds", classifier, classifier.size, dtype, measure)


def image_operations(classifier: InvertibleModel) -> int:
    """Cost of one image in a step of an inversion: multiply-adds of a forward pass plus 16 times `bytes_per_image`.

    The second term is for depthwise convolutions, normalisation and activations: they do few multiply-adds, but take
    time to read and write memory. On one CPU core the sum predicts the relative time of a step within 40% for 14
    networks from Conv4 to ViT; multiply-adds alone are wrong by a factor of up to 3 (docs/results/cost.md).
    """
    return multiply_adds(classifier) + _OPERATIONS_PER_BYTE * bytes_per_image(classifier, classifier.size)


def _once(quantity: str, classifier: InvertibleModel, size: int, dtype: torch.dtype, measure: Callable[[], int]) -> int:
    if not isinstance(classifier, PretrainedClassifier):
        return measure()
    architecture = hashlib.sha256(stack_key(classifier).encode()).hexdigest()
    key = quantity, architecture, size, dtype
    if key not in _MEASURED:
        _MEASURED[key] = measure()
    return _MEASURED[key]


def _blank(classifier: InvertibleModel, count: int, size: int, dtype: torch.dtype) -> Tensor:
    weights = _weights_of(classifier)
    return torch.zeros(count, 3, size, size, dtype=dtype, device=weights[0].device if weights else None)


def _dtype(classifier: InvertibleModel) -> torch.dtype:
    return next((weight.dtype for weight in _weights_of(classifier) if weight.is_floating_point()), torch.float32)


def _weights_of(classifier: InvertibleModel) -> list[Tensor]:
    return [*classifier.parameters(), *classifier.buffers()] if isinstance(classifier, nn.Module) else []
