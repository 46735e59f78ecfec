"""What is taught by which optimiser; an optimiser's state as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dfml.errors import RunError

_DECAY = 0.1


class MuonAndAdam:
    """Muon for the kernels of convolutions, Adam for everything else.

    Muon (Jordan et al. 2024) moves a matrix by the orthogonal matrix nearest to its mean gradient: all directions by
    the same length, not only those that the gradient is full of. A kernel is one, with a row for each output channel.
    Kernels decay by `_DECAY` of the learning rate at every step, which keeps their length where steps still turn them.

    Args:
        weights: What is taught. Kernels have to be `channels_last`; the object keeps views of their memory.
        lr: Adam's.
        kernel_lr: Muon's; 0: Adam teaches kernels too.
    """

    def __init__(self, weights: Sequence[Tensor], lr: float, kernel_lr: float) -> None:
        self._lr, self._kernel_lr = lr, kernel_lr
        self._weights = list(weights)
        self._is_kernel = [kernel_lr > 0.0 and weight.ndim == 4 for weight in weights]
        taught = [
            nn.Parameter(_channels_last(weight).view(len(weight), -1)) if is_kernel else weight
            for weight, is_kernel in zip(weights, self._is_kernel, strict=True)
        ]
        self._taught = taught
        kernels = [each for each, is_kernel in zip(taught, self._is_kernel, strict=True) if is_kernel]
        others = [each for each, is_kernel in zip(taught, self._is_kernel, strict=True) if not is_kernel]
        self._adam = torch.optim.Adam(others, lr=lr)
        self._muon = torch.optim.Muon(kernels, lr=kernel_lr, weight_decay=_DECAY) if kernels else None

    def descend(self, loss: Tensor, share: float) -> None:
        """One step down a loss, at a share of both learning rates."""
        gradients = torch.autograd.grad(loss, self._weights)
        for each, is_kernel, gradient in zip(self._taught, self._is_kernel, gradients, strict=True):
            each.grad = _channels_last(gradient).flatten(1) if is_kernel else gradient
        for optimiser, lr in ((self._adam, self._lr), (self._muon, self._kernel_lr)):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = share * lr
                optimiser.step()

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """The state as named tensors."""
        kernels = optimiser_state_dict(f"{name}_of_kernels", self._muon) if self._muon else {}
        return optimiser_state_dict(name, self._adam) | kernels

    def load_state_dict(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`.

        Raises:
            RunError: If kernels were taught by the other optimiser.
        """
        load_optimiser_state_dict(name, self._adam, tensors)
        if self._muon:
            load_optimiser_state_dict(f"{name}_of_kernels", self._muon, tensors)


def _channels_last(kernel: Tensor) -> Tensor:
    return kernel.detach().permute(0, 2, 3, 1)


def optimiser_state_dict(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def load_optimiser_state_dict(name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_state_dict`.

    Raises:
        RunError: If the state is that of other weights.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            number, part = key.removeprefix(f"{name}.").split(".", 1)
            index = int(number)
            if index >= len(weights) or (part != "step" and value.shape != weights[index].shape):
                raise RunError(
                    f"the checkpoint's {name} taught other weights (expected those of this run's {name}, found "
                    f"{key} of shape {tuple(value.shape)}); choose learning rates under which it teaches the same"
                )
            # Adam counts its steps on the CPU; on a GPU every count would have to be waited for.
            entries.setdefault(index, {})[part] = value.cpu() if part == "step" else value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
