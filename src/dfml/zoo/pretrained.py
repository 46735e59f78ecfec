"""`PretrainedClassifier`: a frozen image classifier with its labels and its preprocessing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfml.backbones import head_inputs
from dfml.images import Interpolation, resize_and_crop
from dfml.zoo.statistics import LayerStatistics, batch_norm_layers, record_means, record_statistics

_BATCH_PIXELS = 2**21  # in one forward pass of `predict_logits`: 2048 images of 32 x 32, 41 of 224 x 224


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image in [0, 1]: `(image - mean) / std` at `size` x `size` pixels.

    Attributes:
        size: Height and width of the network's input, in pixels.
        mean: Mean of red, green and blue.
        std: Standard deviation of red, green and blue; positive.
        interpolation: How images of another size are resized.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bilinear"

    def resize(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images 3 size size"]:
        """Resize images in [0, 1] to the input size, and crop the centre; see `dfml.images.resize_and_crop`."""
        return resize_and_crop(images, self.size, self.interpolation)

    def normalise(self, images: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
        """Convert images in [0, 1] to the network's input; they are not resized."""
        mean, std = self._columns(images)
        return (images - mean) / std

    def denormalise(self, inputs: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
        """Convert the network's input back to images; they are not clipped to [0, 1]."""
        mean, std = self._columns(inputs)
        return torch.addcmul(mean, inputs, std)

    def as_dict(self) -> dict[str, int | str | list[float]]:
        """Return plain values for a `config.json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=like.dtype).view(3, 1, 1) for values in (self.mean, self.std))
        return mean.to(like.device, non_blocking=True), std.to(like.device, non_blocking=True)


class PretrainedClassifier(nn.Module):
    """A frozen classifier. It takes float images in [0, 1], NCHW, and normalises them itself.

    Args:
        network: Normalised images -> logits. It is put into evaluation mode, and its parameters take no gradients.
        labels: One name per output.
        preprocessing: The preprocessing that the network was trained with.
        source: Path of the member, or another description for messages.
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
        """Height and width of the network's input, in pixels."""
        return self.preprocessing.size

    @property
    def num_batch_norms(self) -> int:
        """Number of batch-norm layers with running statistics; with none, inversion can use the labels only."""
        return len(batch_norm_layers(self.network))

    def train(self, mode: bool = True) -> PretrainedClassifier:
        """Stay in evaluation mode, also as part of a module in training mode: running statistics must not change."""
        return super().train(False)

    def logits(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels"]:
        """Logits of images at the network's input size; gradients flow to the images."""
        logits: Tensor = self.network(self._input(images))
        return logits

    def predict_logits(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Logits of any number of images of any size, in batches of about two million pixels."""
        parts = torch.split(images, max(1, _BATCH_PIXELS // self.size**2))
        return torch.cat([self.logits(self.preprocessing.resize(part)) for part in parts])

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of any number of images in [0, 1] of any size."""
        return self.predict_logits(images).softmax(dim=1)

    def features(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images features"]:
        """Inputs of the classification head; see `dfml.backbones.head_inputs`."""
        return head_inputs(self.network, self._input(images))

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        """Logits, and the statistics of every batch-norm layer's input in order of use; differentiable once."""
        with record_statistics(self.network) as statistics:
            logits = self.logits(images)
        return logits, statistics

    def layer_means(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images features"]:
        """Channel means of every batch-norm layer's input for each image, side by side: the features of CMI.

        A network without batch-norm layers has its logits instead. Images are resized to the network's input size.
        """
        with record_means(self.network) as means:
            logits = self.logits(self.preprocessing.resize(images))
        return torch.cat(means, dim=1) if means else logits

    def _input(self, images: Tensor) -> Tensor:
        return self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)
