"""`PretrainedClassifier`: somebody's frozen image classifier, with its labels and its preprocessing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfml.backbones import head_inputs
from dfml.images import resize_and_crop
from dfml.zoo.statistics import LayerStatistics, batch_norm_layers, record_means, record_statistics

_AT_ONCE = 2**21  # pixels that are put to a network: 2048 images of 32 x 32, 41 of 224 x 224


@dataclass(frozen=True)
class Preprocessing:
    """How an image in [0, 1] becomes a network's input: `(image - mean) / std` at `size` x `size` pixels."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, images: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
        """From images in [0, 1] to the network's input."""
        mean, std = self._columns(images)
        return (images - mean) / std

    def denormalise(self, inputs: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
        """From the network's input back to images; not clipped."""
        mean, std = self._columns(inputs)
        return torch.addcmul(mean, inputs, std)

    def as_dict(self) -> dict[str, int | list[float]]:
        """Plain values for a `config.json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=like.dtype).view(3, 1, 1) for values in (self.mean, self.std))
        return mean.to(like.device, non_blocking=True), std.to(like.device, non_blocking=True)


class PretrainedClassifier(nn.Module):
    """A frozen classifier. Images are float in [0, 1], NCHW; it normalises inside.

    Args:
        network: Images to logits; it is put into evaluation mode, and none of its weights takes a gradient.
        labels: One name an output.
        preprocessing: What the network was trained with.
        source: Where it comes from, for messages.
    """

    def __init__(
        self, network: nn.Module, labels: tuple[str, ...], preprocessing: Preprocessing, source: str = "memory"
    ) -> None:
        super().__init__()
        # Channels-last halves the time of small convolutions on a CPU, and makes channel statistics a matrix product.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.labels = labels
        self.preprocessing = preprocessing
        self.source = source

    @property
    def size(self) -> int:
        """Pixels a side of its input."""
        return self.preprocessing.size

    @property
    def num_batch_norms(self) -> int:
        """Batch-norm layers that hold statistics; without any, inversion has only the labels to go by."""
        return len(batch_norm_layers(self.network))

    def train(self, mode: bool = True) -> PretrainedClassifier:
        """Stays in evaluation mode, whatever module it is part of: its stored statistics are evidence."""
        return super().train(False)

    def logits(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels"]:
        """One score a label."""
        logits: Tensor = self.network(self._input(images))
        return logits

    def predict_logits(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """The logits of any number of images of any size, of so many at a time as fit the memory."""
        parts = torch.split(images, max(1, _AT_ONCE // self.size**2))
        return torch.cat([self.logits(resize_and_crop(part, self.size)) for part in parts])

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of any number of images in [0, 1] of any size."""
        return self.predict_logits(images).softmax(dim=1)

    def features(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images features"]:
        """What the network's head sees, for networks in timm's manner."""
        return head_inputs(self.network, self._input(images))

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        """The logits, and what every batch-norm layer saw, in order of use."""
        with record_statistics(self.network) as statistics:
            logits = self.logits(images)
        return logits, statistics

    def layer_means(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images features"]:
        """What every batch-norm layer sees of each image, averaged over its pixels, side by side (CMI's features).

        The logits where there is no batch-norm layer. Images are resized to the member's input.
        """
        with record_means(self.network) as seen:
            logits = self.logits(resize_and_crop(images, self.size))
        return torch.cat(seen, dim=1) if seen else logits

    def _input(self, images: Tensor) -> Tensor:
        return self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
