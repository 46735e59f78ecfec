"""Trains one classifier on labelled images by a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from dfml.backbones import create_backbone
from dfml.data.dataset import ImageDataset
from dfml.errors import DataError, RunError
from dfml.images import to_float
from dfml.pretraining.recipes import Optimisation, Recipe
from dfml.schedules import half_cosine
from dfml.seeds import generator
from dfml.training.device import keep_freed_memory
from dfml.zoo import Preprocessing
from dfml.zoo.statistics import batch_norm_layers

_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network and its accuracy.

    Attributes:
        network: Network in evaluation mode, on the CPU.
        held_out_accuracy: Accuracy on the held-out images, a fraction.
    """

    network: nn.Module
    held_out_accuracy: float


@dataclass(frozen=True)
class _Samples:
    """Images and labels on the training device. Images stay bytes (a quarter of the memory); batches become floats."""

    images: Tensor
    labels: Tensor
    preprocessing: Preprocessing

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.labels.device)
        return self.images[indices], self.labels[indices]

    def network_input(self, images: Tensor) -> Tensor:
        inputs = self.preprocessing.normalise(to_float(images))
        return inputs.contiguous(memory_format=torch.channels_last)


def train_classifier(
    dataset: ImageDataset,
    architecture: str,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    seed: int = 0,
    member: int = 0,
    arguments: dict[str, Any] | None = None,
    device: torch.device | None = None,
) -> TrainedClassifier:
    """Train a classifier of all classes of a data set.

    The first 80% of the images of each class, in file order, are trained on; the rest is held out. Training uses one
    thread, so that on one kind of machine the same (seed, member) gives the same weights, bit for bit. Torch's global
    generators are left as they were.

    Args:
        dataset: Labelled images; the network's outputs are in the order of its classes.
        architecture: Name of the architecture for `dfml.backbones.create_backbone`.
        recipe: Training recipe.
        preprocessing: Normalisation of the images; its size is that of the images.
        seed: Seed of the zoo that the classifier is part of.
        member: Number of the classifier within the zoo.
        arguments: Arguments of the architecture, such as `img_size`; default none.
        device: Device to train on; None for the CPU.

    Raises:
        UsageError: If the network cannot be built.
        DataError: If a class has fewer than two images.
        RunError: If the training diverges.
    """
    keep_freed_memory()
    device = device or torch.device("cpu")
    fit, held_out = split_images(dataset)
    network = create_backbone(
        architecture, len(dataset.classes), seed=_seed(seed, member, "weights"), **(arguments or {})
    )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisation = recipe.optimisation(architecture, batch_norm=bool(batch_norm_layers(network)))
    samples = _Samples(dataset.images.to(device), dataset.labels.to(device), preprocessing)
    # Random layers (dropout, stochastic depth) use torch's global generators.
    with one_thread(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(seed, member, "layers"))
        _fit(network, samples, fit, recipe, optimisation, (seed, member))
        accuracy = _accuracy(network, samples, held_out)
    return TrainedClassifier(network.cpu().eval(), accuracy)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which torch computes with one thread: the number of threads changes the rounding of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def split_images(dataset: ImageDataset) -> tuple[Int64[Tensor, " fit"], Int64[Tensor, " held_out"]]:
    """Indices of the first 80% of the images of each class, and of the rest; both have an image of every class.

    Raises:
        DataError: If a class has fewer than two images.
    """
    parts = [dataset.of_class(label) for label in range(len(dataset.classes))]
    for name, part in zip(dataset.classes, parts, strict=True):
        if len(part) < 2:
            raise DataError(
                f"{dataset.name}: class {name!r} has 1 image, expected at least 2 (one to fit, one to hold out); "
                "add images or leave the class out"
            )
    return (
        torch.cat([part[: len(part) * 4 // 5] for part in parts]),
        torch.cat([part[len(part) * 4 // 5 :] for part in parts]),
    )


def augment(
    images: UInt8[Tensor, "images 3 height width"], crop_padding: int, flip: bool, draws: torch.Generator
) -> UInt8[Tensor, "images 3 height width"]:
    """Crop every image at a random position after padding it with black, and mirror it with probability 1/2.

    Args:
        images: A batch of images.
        crop_padding: Pixels added on every side; 0 disables cropping.
        flip: Whether to mirror.
        draws: Generator of the positions and of the choice of mirrored images.
    """
    count, _, height, width = images.shape
    if crop_padding:
        top, left = torch.randint(2 * crop_padding + 1, (2, count), generator=draws).to(images.device)
        padded = functional.pad(images, [crop_padding] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(count, device=images.device), :, top, left]
    if flip:
        mirrored = torch.rand(count, generator=draws).to(images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def learning_rate(optimisation: Optimisation, update: int, updates_per_epoch: int, epochs: int) -> float:
    """Learning rate of an update by the schedule of `optimisation`.

    Args:
        optimisation: The optimiser's settings.
        update: Number of the update, counted from 0 over the whole training.
        updates_per_epoch: Number of updates in an epoch.
        epochs: Number of epochs of the training.
    """
    peak = optimisation.learning_rate
    if optimisation.schedule == "steps":
        passed = sum(update // updates_per_epoch >= epoch for epoch in optimisation.step_epochs)
        return peak * optimisation.step_factor**passed
    if optimisation.schedule == "one_cycle":
        rise, start = 0.3, peak / 25
        position = update / max(1, updates_per_epoch * epochs - 1)
        if position < rise:
            return _cosine(start, peak, position / rise)
        return _cosine(peak, start / 1e4, (position - rise) / (1 - rise))
    return peak


def _cosine(first: float, last: float, position: float) -> float:
    return last + (first - last) * half_cosine(position)


def _fit(
    network: nn.Module, samples: _Samples, fit: Tensor, recipe: Recipe, optimisation: Optimisation, key: tuple[int, int]
) -> None:
    network.train()
    seed, member = key
    padding = recipe.padding(samples.images.shape[-1])
    optimiser = _optimiser(network, optimisation)
    # Batches of nearly equal size: a last batch of one image would have no variance to normalise by.
    batches = math.ceil(len(fit) / recipe.batch_size)
    for epoch in range(recipe.epochs):
        draws = generator(seed, "member", member, "epoch", epoch)
        order = fit[torch.randperm(len(fit), generator=draws)]
        total = torch.zeros((), device=samples.labels.device)
        for number, batch in enumerate(torch.tensor_split(order, batches)):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(optimisation, epoch * batches + number, batches, recipe.epochs)
            images, labels = samples.take(batch)
            images = augment(images, padding, recipe.flip, draws)
            loss = functional.cross_entropy(network(samples.network_input(images)), labels)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            clip_grad_norm_(network.parameters(), recipe.gradient_clip)
            optimiser.step()
            total += loss.detach()
        if not math.isfinite(total.item()):
            raise RunError(
                f"the training of member {member} diverged: its loss is not finite in epoch {epoch + 1} of "
                f"{recipe.epochs}; lower the recipe's learning rate (it is {optimisation.learning_rate:g})"
            )


def _optimiser(network: nn.Module, optimisation: Optimisation) -> torch.optim.Optimizer:
    rate, decay = optimisation.learning_rate, optimisation.weight_decay
    if optimisation.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    if optimisation.optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=optimisation.momentum, weight_decay=decay)


@torch.inference_mode()
def _accuracy(network: nn.Module, samples: _Samples, indices: Tensor) -> float:
    network.eval()
    correct = 0
    for batch in torch.split(indices, _EVALUATION_BATCH):
        images, labels = samples.take(batch)
        correct += int((network(samples.network_input(images)).argmax(1) == labels).sum())
    return correct / len(indices)


def _seed(seed: int, member: int, purpose: str) -> int:
    return generator(seed, "member", member, purpose).initial_seed()
