"""A backbone as a pure function of (parameters, statistics, images).

Batch-norm decides whether a few-shot learner is inductive or transductive: if query images are normalised with their
own statistics, the prediction for one image depends on the others. Here the statistics are an argument and a result of
the forward pass, so that every learner states which ones it uses.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfml.backbones import create_backbone, size_arguments, sized

Parameters = dict[str, Tensor]
"""Weights by name: `backbone.*`, `head.weight` (way x features) and `head.bias` (way)."""

Statistics = dict[str, Tensor]
"""Mean and biased variance of the input of every batch-norm layer, by name: `LAYER.mean`, `LAYER.variance`."""


class EpisodeBatchNorm2d(nn.Module):
    """Batch-norm whose statistics are a result in training mode and an argument in evaluation mode.

    It is written in elementary operations, because PyTorch's native batch-norm silently gives wrong second derivatives
    under `vmap`.

    Args:
        norm: Layer whose weight, bias and epsilon are taken over; its running statistics are not.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        channels = norm.num_features
        self.weight = nn.Parameter(torch.ones(channels) if norm.weight is None else norm.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(channels) if norm.bias is None else norm.bias.detach().clone())
        self.eps = norm.eps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(
        self, x: Float[Tensor, "images channels rows columns"]
    ) -> Float[Tensor, "images channels rows columns"]:
        """Normalise a feature map per channel, then scale and shift it."""
        images, channels, rows, columns = x.shape
        # In channels-last memory a (pixels, channels) view costs nothing, and channel sums are matrix products, as are
        # their first and second derivatives: about twice as fast as `var_mean` on a CPU.
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        if self.training:
            averaging = pixels.new_full((1, len(pixels)), 1.0 / len(pixels))
            mean = (averaging @ pixels)[0]
            centred = pixels - mean
            variance = (averaging @ (centred * centred))[0]
            # `functional_call` returns replaced buffers to its caller; the module itself keeps nothing.
            self.mean, self.variance = mean, variance
            normalised = torch.addcmul(self.bias, centred, self.weight * torch.rsqrt(variance + self.eps))
        else:
            scale = self.weight * torch.rsqrt(self.variance + self.eps)
            normalised = torch.addcmul(self.bias - self.mean * scale, pixels, scale)
        return normalised.view(images, rows, columns, channels).permute(0, 3, 1, 2)

    def native(self) -> nn.BatchNorm2d:
        """Build PyTorch's own layer, whose running statistics are the present ones."""
        norm = nn.BatchNorm2d(len(self.weight), eps=self.eps, device=self.weight.device).requires_grad_(False)
        values = {"running_mean": self.mean, "running_var": self.variance, "num_batches_tracked": torch.tensor(0)}
        norm.load_state_dict({"weight": self.weight, "bias": self.bias, **values})
        return norm.eval()


def architecture_of(backbone: str, arguments: dict[str, Any], size: int) -> dict[str, Any]:
    """Describe a backbone for `config.json`: its name, and its arguments for images of `size` x `size` pixels."""
    return {"architecture": backbone, "arguments": {**size_arguments(backbone, size), **arguments}}


class EpisodeNetwork:
    """Feature extractor of a few-shot learner as a function: its weights and statistics are arguments.

    Args:
        architecture: Name of a network of dfml or timm, built without a head; see `dfml.backbones.create_backbone`.
        arguments: Arguments of the architecture.
        seed: Seed of the initial weights.
    """

    def __init__(self, architecture: str, arguments: dict[str, Any], seed: int) -> None:
        self._architecture = architecture
        module = _with_episode_norms(create_backbone(architecture, 0, seed=seed, **arguments))
        self._module = module.requires_grad_(False)
        names = {name for name, layer in module.named_modules() if isinstance(layer, EpisodeBatchNorm2d)}
        self._statistics = tuple(f"{name}.{part}" for name in sorted(names) for part in ("mean", "variance"))
        self._buffers = {k: v for k, v in module.named_buffers() if k not in self._statistics}

    def initial(self) -> Parameters:
        """Return a copy of the untrained weights, named `backbone.*`."""
        return {f"backbone.{name}": value.detach().clone() for name, value in self._module.named_parameters()}

    def neutral_statistics(self) -> Statistics:
        """Return statistics of mean 0 and variance 1 for every batch-norm layer."""
        buffers = dict(self._module.named_buffers())
        return {name: buffers[name].clone() for name in self._statistics}

    @torch.no_grad()
    def width(self, size: int) -> int:
        """Return the number of features of an image of `size` x `size` pixels.

        Raises:
            UsageError: If the network cannot take images of this size.
        """
        with sized(self._architecture, size):
            return self.features(self.initial(), torch.zeros(2, 3, size, size))[0].shape[1]

    def features(
        self,
        parameters: Parameters,
        inputs: Float[Tensor, "images 3 height width"],
        statistics: Statistics | None = None,
    ) -> tuple[Float[Tensor, "images features"], Statistics]:
        """Compute the features of normalised images.

        Args:
            parameters: Weights named `backbone.*`; other entries are ignored.
            inputs: Normalised images, on the device of the parameters.
            statistics: Batch-norm statistics to normalise with; default None, the statistics of `inputs` themselves.

        Returns:
            The features, and the batch-norm statistics that were used. Both are twice differentiable.
        """
        values = {name.removeprefix("backbone."): v for name, v in parameters.items() if name.startswith("backbone.")}
        unset = {name: next(iter(values.values())).new_empty(0) for name in self._statistics}
        values |= unset if statistics is None else statistics
        self._module.train(statistics is None)
        # Of the module's own tensors only constant buffers are read; they must be on the device of the images.
        values |= {name: buffer.to(inputs.device) for name, buffer in self._buffers.items()}
        # Channels-last memory by permutation, because `vmap` does not support `memory_format`.
        inputs = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        # Fused kernels of attention have no second derivative and no rule for `vmap`.
        with sdpa_kernel(SDPBackend.MATH):
            features = functional_call(self._module, values, (inputs,))
        return features, {name: values[name] for name in self._statistics}

    def fixed(self, parameters: Parameters, statistics: Statistics) -> nn.Module:
        """Build an ordinary module of the backbone, with native batch-norm layers, which runtimes fuse and quantise.

        Args:
            parameters: Weights named `backbone.*`; other entries are ignored.
            statistics: Batch-norm statistics that normalise all images.

        Returns:
            A module in evaluation mode, on the device of the parameters, from normalised images to features. It shares
            no memory with the parameters.
        """
        module = deepcopy(self._module).to(next(iter(parameters.values())).device)
        values = {name.removeprefix("backbone."): v for name, v in parameters.items() if name.startswith("backbone.")}
        module.load_state_dict({**module.state_dict(), **values, **statistics})
        for name, layer in list(module.named_modules()):
            if isinstance(layer, EpisodeBatchNorm2d):
                module.set_submodule(name, layer.native())
        return module.eval()


def _with_episode_norms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            parts: list[nn.Module] = [EpisodeBatchNorm2d(child)]
            # timm fuses dropout and activation into some of its batch-norm layers.
            parts += [part for key in ("drop", "act") if isinstance(part := getattr(child, key, None), nn.Module)]
            setattr(module, name, parts[0] if len(parts) == 1 else nn.Sequential(*parts))
        else:
            _with_episode_norms(child)
    return module
