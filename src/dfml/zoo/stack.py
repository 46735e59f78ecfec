"""Members of one architecture, stacked so that one call evaluates them all.

On a GPU this replaces many small kernels by few large ones. On a CPU it is slower than a loop: a convolution with one
set of weights per member becomes a grouped convolution (`benchmarks/purer_step.py` prints the ratio).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.statistics import LayerStatistics, record_statistics

Result = TypeVar("Result")


class StackedMember:
    """One member of a stack, as a mapped function sees it; the same interface as `PretrainedClassifier`."""

    def __init__(self, network: nn.Module, size: int, weights: dict[str, Tensor], mean: Tensor, std: Tensor) -> None:
        self.size = size
        self._network, self._weights, self._mean, self._std = network, weights, mean, std

    def logits(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels"]:
        """See `PretrainedClassifier.logits`."""
        inputs = (images - self._mean[:, None, None]) / self._std[:, None, None]
        logits: Tensor = functional_call(self._network, self._weights, (inputs,))
        return logits

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        """See `PretrainedClassifier.logits_and_statistics`."""
        with record_statistics(self._network) as statistics:
            logits = self.logits(images)
        return logits, statistics


class MemberStack:
    """A batch of members.

    Args:
        members: Of one architecture, number of classes and image size (a group of `Zoo.groups`).
    """

    def __init__(self, members: Sequence[PretrainedClassifier]) -> None:
        networks = [member.network for member in members]
        parameters, buffers = stack_module_state(networks)
        self._weights = {name: value.detach() for name, value in {**parameters, **buffers}.items()}
        like = next(iter(parameters.values()))
        self._mean, self._std = (
            torch.tensor(values, dtype=like.dtype, device=like.device)
            for values in ([m.preprocessing.mean for m in members], [m.preprocessing.std for m in members])
        )
        self._network, self._size = networks[0], members[0].preprocessing.size

    def map(self, function: Callable[..., Result], rows: Tensor, *inputs: Any) -> Result:
        """`function(member, *inputs)` for several members at once.

        Args:
            function: Takes a `StackedMember` and one entry of every input; must be fit for `torch.vmap`.
            rows: Which members of the stack.
            *inputs: Tensors (or mappings and tuples of them) with one entry a row along the first axis; or None.
        """

        def one(weights: dict[str, Tensor], mean: Tensor, std: Tensor, *entries: Any) -> Result:
            return function(StackedMember(self._network, self._size, weights, mean, std), *entries)

        weights = {name: value[rows] for name, value in self._weights.items()}
        axes = tuple(None if entry is None else 0 for entry in inputs)
        mapped: Result = torch.vmap(one, in_dims=(0, 0, 0, *axes))(weights, self._mean[rows], self._std[rows], *inputs)
        return mapped


def stack_key(classifier: PretrainedClassifier) -> str:
    """Equal for members that can be stacked: the same network up to its weights, and the same image size.

    Networks are compared module by module, with their settings: a pooling, a stride or a slope leaves no trace in the
    shapes of weights.
    """
    shapes = [(name, tuple(tensor.shape)) for name, tensor in classifier.network.state_dict().items()]
    modules = [(name, type(module).__name__, _settings(module)) for name, module in classifier.network.named_modules()]
    return f"{classifier.size} {shapes} {modules}"


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    plain = (bool, int, float, str, tuple, type(None))
    return sorted((name, value) for name, value in vars(module).items() if isinstance(value, plain) and name[0] != "_")
