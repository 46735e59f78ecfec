"""Small networks, zoos and data sets that tests are made of. Nothing here is trained unless it says so."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dfml.backbones import create_backbone
from dfml.data.dataset import ImageDataset
from dfml.evaluation.protocol import sample_evaluation_episode
from dfml.images import to_float
from dfml.learners.episode import Episode, episode_labels
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.writer import write_member

SIZE = 16
PREPROCESSING = Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def member(
    seed: int, labels: tuple[str, ...] = ("a", "b", "c"), preprocessing: Preprocessing = PREPROCESSING
) -> PretrainedClassifier:
    """A Conv4 with random weights, and the batch-norm statistics of smooth coloured images."""
    network = create_backbone("conv4", len(labels), seed=seed, img_size=preprocessing.size)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain average
    smooth = images(32, seed=seed, size=4)
    smooth = nn.functional.interpolate(smooth, size=preprocessing.size, mode="bilinear")
    with torch.no_grad():
        network.train()(preprocessing.normalise(smooth))
        network.get_classifier().weight.mul_(5.0)  # as sure of itself as a trained one
    return PretrainedClassifier(network, labels, preprocessing, source=f"memory {seed}")


def zoo(members: int = 3) -> Zoo:
    """Members of three classes each; baselines share one class."""
    names = [tuple(f"class {2 * index + offset} of many" for offset in range(3)) for index in range(members)]
    return Zoo.of([member(index, labels) for index, labels in enumerate(names)])


def written_zoo(path: Path, members: int = 3) -> Zoo:
    """Members of the same three classes, in a folder as `Zoo.open` reads it."""
    for index in range(members):
        made = member(index)
        write_member(
            path / f"m{index}",
            made.network,
            architecture="conv4",
            labels=made.labels,
            preprocessing=made.preprocessing,
            arguments={"img_size": made.size},
        )
    return Zoo.open(path)


def images(count: int, seed: int = 0, size: int = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform noise in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coloured_dataset(classes: int = 6, per_class: int = 20, size: int = SIZE, seed: int = 0) -> ImageDataset:
    """Classes that differ in colour, with noise: easy, but not trivial."""
    draw = torch.Generator().manual_seed(seed)
    colours = torch.rand(classes, 1, 3, 1, 1, generator=draw)
    noise = torch.randn(classes, per_class, 3, size, size, generator=draw)
    pixels = (colours + 0.25 * noise).clamp(0, 1).mul(255).to(torch.uint8).flatten(0, 1)
    labels = torch.arange(classes).repeat_interleave(per_class)
    return ImageDataset(pixels, labels, tuple(f"colour {index}" for index in range(classes)), "colours")


def load_episode(dataset: ImageDataset, way: int, shot: int, query: int, seed: int, index: int) -> Episode:
    """One episode with its images, as `evaluate` draws it."""
    support, of_query = sample_evaluation_episode(dataset, way, shot, query, seed, index)
    labels = (episode_labels(way, each, torch.device("cpu")) for each in (shot, query))
    return Episode(to_float(dataset.images[support]), next(labels), to_float(dataset.images[of_query]), next(labels))
