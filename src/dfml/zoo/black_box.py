"""`BlackBoxClassifier`: a member that only predicts, made from any function of a batch of arrays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.zoo.pretrained import Preprocessing


class BlackBoxClassifier:
    """A classifier without gradients: it resizes and normalises images and queries a function.

    Args:
        function: Normalised images (floats, images x 3 x size x size, on the CPU) -> logits (images x labels). Their
            softmax are the probabilities.
        labels: One name per output.
        preprocessing: Size, mean and standard deviation of the function's input.
        source: Path of the member, or another description for messages.
        reason: Why it only predicts, for tables.
        batch: Largest number of images per call of the function.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
        source: str,
        *,
        reason: str = "",
        batch: int = 64,
    ) -> None:
        self._function = function
        self._batch = batch
        self.labels = labels
        self.preprocessing = preprocessing
        self.source = source
        self.reason = reason

    @torch.no_grad()
    def predict_logits_of(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels"]:
        """Logits of images in [0, 1] at the function's input size, on the CPU."""
        inputs = self.preprocessing.normalise(images.float().cpu())
        return torch.cat([self._function(part) for part in torch.split(inputs, self._batch)])

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of any number of images in [0, 1] of any size, on the images' device."""
        resized = self.preprocessing.resize(images.float())
        return self.predict_logits_of(resized).softmax(dim=1).to(images.device)
