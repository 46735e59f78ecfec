"""A backbone as a pure function of (parameters, statistics, images).

Batch-norm is where a few-shot learner cheats without noticing: normalising query images by each other lets one answer
depend on the rest of the batch. Here statistics are values that are handed in and out, so every learner must say which
ones it uses.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from dfml.backbones import create_backbone, size_arguments, sized

Parameters = dict[str, Tensor]
"""Named weights; `backbone.*`, `head.weight` (way x features) and `head.bias` (way)."""

Statistics = dict[str, Tensor]
"""Mean and biased variance of every batch-norm layer's input."""


class EpisodeBatchNorm2d(nn.Module):
    """Batch-norm whose statistics are an output in training mode and an input in evaluation mode.

    Written from elementary operations: PyTorch's native batch-norm gives silently wrong second derivatives under
    `vmap`.
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
        """Normalise a feature map."""
        images, channels, rows, columns = x.shape
        # A (pixels, channels) view is free in channels-last memory, and turns channel sums into a matrix product, whose
        # first and second derivatives are matrix products too: about twice as fast as `var_mean` on a CPU.
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        if self.training:
            share = pixels.new_full((1, len(pixels)), 1.0 / len(pixels))
            mean = (share @ pixels)[0]
            centred = pixels - mean
            variance = (share @ (centred * centred))[0]
            # `functional_call` hands replaced buffers back to its caller; the module itself keeps nothing.
            self.mean, self.variance = mean, variance
            normalised = torch.addcmul(self.bias, centred, self.weight * torch.rsqrt(variance + self.eps))
        else:
            scale = self.weight * torch.rsqrt(self.variance + self.eps)
            normalised = torch.addcmul(self.bias - self.mean * scale, pixels, scale)
        return normalised.view(images, rows, columns, channels).permute(0, 3, 1, 2)


def architecture_of(backbone: str, arguments: dict[str, Any], size: int) -> dict[str, Any]:
    """What is saved of a backbone to rebuild it: its name and arguments for images of `size` pixels a side."""
    return {"architecture": backbone, "arguments": {**size_arguments(backbone, size), **arguments}}


class EpisodeNetwork:
    """The feature extractor of a few-shot learner, without any state of its own.

    Args:
        architecture: See `dfml.backbones.create_backbone`; built without a head.
        arguments: Of the architecture.
        seed: Of the initial weights.
    """

    def __init__(self, architecture: str, arguments: dict[str, Any], seed: int) -> None:
        self._architecture = architecture
        module = _with_episode_norms(create_backbone(architecture, 0, seed=seed, **arguments))
        self._module = module.requires_grad_(False)
        names = {name for name, layer in module.named_modules() if isinstance(layer, EpisodeBatchNorm2d)}
        self._statistics = tuple(f"{name}.{part}" for name in sorted(names) for part in ("mean", "variance"))
        self._buffers = {k: v for k, v in module.named_buffers() if k not in self._statistics}

    def initial(self) -> Parameters:
        """The untrained weights, `backbone.*`."""
        return {f"backbone.{name}": value.detach().clone() for name, value in self._module.named_parameters()}

    def neutral_statistics(self) -> Statistics:
        """Mean 0 and variance 1 for every layer."""
        buffers = dict(self._module.named_buffers())
        return {name: buffers[name].clone() for name in self._statistics}

    @torch.no_grad()
    def width(self, size: int) -> int:
        """Features of an image of `size` pixels a side.

        Raises:
            UsageError: If the network is not made for this size.
        """
        with sized(self._architecture, size):
            return self.features(self.initial(), torch.zeros(2, 3, size, size))[0].shape[1]

    def features(
        self,
        parameters: Parameters,
        inputs: Float[Tensor, "images 3 height width"],
        statistics: Statistics | None = None,
    ) -> tuple[Float[Tensor, "images features"], Statistics]:
        """Features of normalised images.

        Args:
            parameters: Must hold `backbone.*`; other entries are ignored.
            inputs: Normalised images.
            statistics: Normalise with these; None: with the batch's own.

        Returns:
            The features, and the statistics that were used. Both are differentiable, twice.
        """
        values = {name.removeprefix("backbone."): v for name, v in parameters.items() if name.startswith("backbone.")}
        used = {name: next(iter(values.values())).new_empty(0) for name in self._statistics}
        values |= used if statistics is None else statistics
        self._module.train(statistics is None)
        # The module must sit where the images are; its own tensors are never read but for constant buffers.
        values |= {name: buffer.to(inputs.device) for name, buffer in self._buffers.items()}
        # Channels-last memory, said in a way that `vmap` understands too.
        inputs = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        features = functional_call(self._module, values, (inputs,))
        return features, {name: values[name] for name in self._statistics}


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
