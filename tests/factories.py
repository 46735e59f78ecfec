"""Small members, zoos and data sets for tests. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfml.backbones import create_backbone
from dfml.data.dataset import ImageDataset
from dfml.evaluation.episodes import sample_evaluation_episode
from dfml.images import to_float
from dfml.learners.episode import Episode, episode_labels
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.writer import write_member

SIZE = 16
PREPROCESSING = Preprocessing(SIZE, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def member(
    seed: int = 0,
    labels: tuple[str, ...] = ("a", "b", "c"),
    preprocessing: Preprocessing = PREPROCESSING,
    *,
    architecture: str = "conv4",
    arguments: dict[str, Any] | None = None,
) -> PretrainedClassifier:
    """A member in memory: random weights, and the batch-norm statistics of smooth coloured images.

    Args:
        seed: Seed of its weights and of the images.
        labels: One name per output.
        preprocessing: Its preprocessing.
        architecture: Name of its architecture.
        arguments: Arguments of the architecture; None for `img_size`.
    """
    arguments = {"img_size": preprocessing.size} if arguments is None else arguments
    network = create_backbone(architecture, len(labels), seed=seed, **arguments)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain average
    smooth = images(32, seed=seed, size=4)
    smooth = nn.functional.interpolate(smooth, size=preprocessing.size, mode="bilinear")
    with torch.no_grad():
        network.train()(preprocessing.normalise(smooth))
        network.get_classifier().weight.mul_(5.0)  # as confident as a trained network
    return PretrainedClassifier(network, labels, preprocessing, source=f"memory {seed}")


def write(
    folder: Path,
    classifier: PretrainedClassifier,
    *,
    architecture: str = "conv4",
    arguments: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
) -> Path:
    """Write a member to a folder; returns the folder. The architecture is the one that it was made with."""
    write_member(
        folder,
        classifier.network,
        architecture=architecture,
        labels=classifier.labels,
        preprocessing=classifier.preprocessing,
        arguments={"img_size": classifier.size} if arguments is None else arguments,
        details=details,
    )
    return folder


def zoo(members: int = 3) -> Zoo:
    """A zoo in memory: members of three classes each, of which adjacent members share one."""
    names = [tuple(f"class {2 * index + offset} of many" for offset in range(3)) for index in range(members)]
    return Zoo.of([member(index, labels) for index, labels in enumerate(names)])


def written_zoo(path: Path, members: int = 3) -> Zoo:
    """A zoo on the disk: members of the same three classes, opened by `Zoo.open`."""
    for index in range(members):
        write(path / f"m{index}", member(index))
    return Zoo.open(path)


class ZooMaker:
    """A zoo's folder, member by member."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir()

    def member(
        self,
        name: str = "member-000",
        labels: tuple[str, ...] = ("ant", "bee", "cat"),
        *,
        architecture: str = "conv4",
        arguments: dict[str, Any] | None = None,
        seed: int = 0,
        size: int = SIZE,
        details: dict[str, Any] | None = None,
    ) -> tuple[Path, nn.Module]:
        """Write a member; returns its folder and its network."""
        made = member(seed, labels, replace(PREPROCESSING, size=size), architecture=architecture, arguments=arguments)
        folder = write(self.path / name, made, architecture=architecture, arguments=arguments, details=details)
        return folder, made.network


def edit_config(folder: Path, **changes: Any) -> None:
    """Replace fields of a member's configuration; a value of None removes the field."""
    config = {**json.loads((folder / CONFIG).read_text()), **changes}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Replace a member's weights by a function of them."""
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(change(weights), folder / WEIGHTS)


def images(count: int, seed: int = 0, size: int = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform noise in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coloured_dataset(classes: int = 6, per_class: int = 20, size: int = SIZE, seed: int = 0) -> ImageDataset:
    """Classes that differ in colour, with noise: easy, but not trivial."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(classes, 1, 3, 1, 1, generator=generator)
    noise = torch.randn(classes, per_class, 3, size, size, generator=generator)
    pixels = (colours + 0.25 * noise).clamp(0, 1).mul(255).to(torch.uint8).flatten(0, 1)
    labels = torch.arange(classes).repeat_interleave(per_class)
    return ImageDataset(pixels, labels, tuple(f"colour {index}" for index in range(classes)), "colours")


def load_episode(dataset: ImageDataset, way: int, shot: int, query: int, seed: int, index: int) -> Episode:
    """One episode with its images, as `evaluate` samples it."""
    support_indices, query_indices = sample_evaluation_episode(dataset, way, shot, query, seed, index)
    labels = (episode_labels(way, count, torch.device("cpu")) for count in (shot, query))
    return Episode(
        to_float(dataset.images[support_indices]), next(labels), to_float(dataset.images[query_indices]), next(labels)
    )
