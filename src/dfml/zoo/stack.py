"""Members of one architecture, stacked so that one mapped call evaluates all of them.

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
    """One member of a stack within a mapped function; has the methods of `PretrainedClassifier` for inversion."""

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
    """Members with stacked weights.

    Args:
        members: Members with the same architecture, number of classes and input size (a group of `Zoo.groups`).
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
        """Call `function(member, *inputs)` for several members at once.

        Args:
            function: Function of a `StackedMember` and one entry of every input, to which `torch.vmap` is applied.
            rows: Indices of the members within the stack.
            *inputs: Tensors (or mappings and tuples of tensors) whose first axis has one entry per row; or None.

        Returns:
            The function's results, stacked along a new first axis.
        """

        def one(weights: dict[str, Tensor], mean: Tensor, std: Tensor, *entries: Any) -> Result:
            return function(StackedMember(self._network, self._size, weights, mean, std), *entries)

        weights = {name: value[rows] for name, value in self._weights.items()}
        axes = tuple(None if entry is None else 0 for entry in inputs)
        mapped: Result = torch.vmap(one, in_dims=(0, 0, 0, *axes))(weights, self._mean[rows], self._std[rows], *inputs)
        return mapped


def stack_key(classifier: PretrainedClassifier) -> str:
    """Key that is equal for members that can be stacked: same network up to its weights, same input size.

    It describes all modules and their settings, because a pooling, a stride or a slope does not show in the shapes of
    the weights.
    """
    shapes = [(name, tuple(tensor.shape)) for name, tensor in classifier.network.state_dict().items()]
    modules = [(name, type(module).__name__, _settings(module)) for name, module in classifier.network.named_modules()]
    return f"{classifier.size} {shapes} {modules}"


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    plain = (bool, int, float, str, tuple, type(None))
    return sorted((name, value) for name, value in vars(module).items() if isinstance(value, plain) and name[0] != "_")
