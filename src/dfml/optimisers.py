"""Muon and Adam for one network; the state of optimisers as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dfml.errors import RunError
from dfml.muon import Muon


class MuonAndAdam:
    """Muon for convolution kernels, Adam for all other weights.

    Muon (Jordan et al. 2024) updates a matrix by the orthogonal matrix nearest to its mean gradient, so that all
    directions change by the same length. A convolution kernel is a matrix with one row per output channel. Muon's
    weight decay keeps the norm of the kernels bounded.

    Args:
        weights: Weights to train. Kernels must be in `channels_last` memory format; views of their memory are kept.
        lr: Highest learning rate of Adam.
        kernel_lr: Highest learning rate of Muon; 0: Adam updates the kernels too.
    """

    def __init__(self, weights: Sequence[Tensor], lr: float, kernel_lr: float) -> None:
        self._lr, self._kernel_lr = lr, kernel_lr
        self._weights = list(weights)
        self._is_kernel = [kernel_lr > 0.0 and weight.ndim == 4 for weight in weights]
        leaves = [
            nn.Parameter(_channels_last(weight).view(len(weight), -1)) if is_kernel else weight
            for weight, is_kernel in zip(weights, self._is_kernel, strict=True)
        ]
        self._leaves = leaves
        kernels = [leaf for leaf, is_kernel in zip(leaves, self._is_kernel, strict=True) if is_kernel]
        others = [leaf for leaf, is_kernel in zip(leaves, self._is_kernel, strict=True) if not is_kernel]
        self._adam = torch.optim.Adam(others, lr=lr)
        self._muon = Muon(kernels, lr=kernel_lr) if kernels else None

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step that decreases a loss.

        Args:
            loss: Differentiable scalar that depends on all weights.
            rate: Fraction of both highest learning rates, in [0, 1].
        """
        gradients = torch.autograd.grad(loss, self._weights)
        for leaf, is_kernel, gradient in zip(self._leaves, self._is_kernel, gradients, strict=True):
            leaf.grad = _channels_last(gradient).flatten(1) if is_kernel else gradient
        for optimiser, lr in ((self._adam, self._lr), (self._muon, self._kernel_lr)):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate * lr
                optimiser.step()

    def prefix(self, name: str, weight: Tensor) -> str:
        """Beginning of the names that `state_dict(name)` gives to the state of one of the weights: `NAME.INDEX`."""
        position = next(index for index, each in enumerate(self._weights) if each is weight)
        is_kernel = self._is_kernel[position]
        index = self._is_kernel[:position].count(is_kernel)
        return f"{name}_of_kernels.{index}" if is_kernel else f"{name}.{index}"

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """The state of both optimisers as named tensors; names begin with `name`."""
        kernels = optimiser_state_dict(f"{name}_of_kernels", self._muon) if self._muon else {}
        return optimiser_state_dict(name, self._adam) | kernels

    def load_state_dict(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned.

        Raises:
            RunError: If the kernels were trained by the other optimiser.
        """
        load_optimiser_state_dict(name, self._adam, tensors)
        if self._muon:
            load_optimiser_state_dict(f"{name}_of_kernels", self._muon, tensors)


def _channels_last(kernel: Tensor) -> Tensor:
    return kernel.detach().permute(0, 2, 3, 1)


def optimiser_state_dict(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors `NAME.INDEX.KEY`."""
    state = optimiser.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def load_optimiser_state_dict(name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimiser_state_dict` returned.

    Args:
        name: As given to `optimiser_state_dict`.
        optimiser: A new optimiser of the same weights.
        tensors: The state, among any other tensors.

    Raises:
        RunError: If the state belongs to weights of other shapes.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            number, part = key.removeprefix(f"{name}.").split(".", 1)
            index = int(number)
            if index >= len(weights) or (part != "step" and value.shape != weights[index].shape):
                raise RunError(
                    f"the checkpoint's optimiser {name!r} was used for other weights than this run's (found {key} of "
                    f"shape {tuple(value.shape)}); use the learning rates of the checkpoint's run (a rate of 0 changes "
                    "which weights an optimiser updates)"
                )
            # Adam counts its steps on the CPU; a count on the GPU would make every step wait for it.
            entries.setdefault(index, {})[part] = value.cpu() if part == "step" else value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
