"""Properties of an architecture that are needed before it is trained: its time per image, and batch-norm layers.

The time decides how many worker processes to start.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional

from dfml.backbones import create_backbone, require_whole_patches, sized
from dfml.pretraining.classifier_training import one_thread
from dfml.zoo.statistics import batch_norm_layers

_IMAGES = 16  # in the batch whose time is measured
_START_SECONDS = 5.0  # that a new process needs to import torch and timm


def has_batch_norm(architecture: str, arguments: dict[str, Any]) -> bool:
    """Whether an architecture has batch-norm layers with running statistics.

    Args:
        architecture: Name for `dfml.backbones.create_backbone`.
        arguments: Further arguments of `create_backbone`, such as the image size.

    Raises:
        UsageError: If the network cannot be built.
    """
    return bool(batch_norm_layers(create_backbone(architecture, 2, seed=0, **arguments)))


def seconds_per_image(architecture: str, arguments: dict[str, Any], classes: int, size: int) -> float:
    """Seconds that one CPU thread needs for the forward and backward pass of one image.

    Args:
        architecture: Name for `dfml.backbones.create_backbone`.
        arguments: Further arguments of `create_backbone`.
        classes: Number of outputs.
        size: Height and width of the image in pixels.

    Raises:
        UsageError: If the network cannot be built, or cannot take images of this size.
    """
    network = create_backbone(architecture, classes, seed=0, **arguments).to(memory_format=torch.channels_last)
    require_whole_patches(network, architecture, size)
    images = torch.zeros(_IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(_IMAGES, dtype=torch.long)
    seconds = []
    with one_thread(), torch.random.fork_rng(devices=[]):
        for _ in range(2):  # the first pass also allocates and initialises
            start = time.perf_counter()
            with sized(architecture, size):
                torch.autograd.backward(functional.cross_entropy(network(images), labels))
            seconds.append(time.perf_counter() - start)
    return min(seconds) / _IMAGES


def best_workers(seconds: float, jobs: int, device: torch.device) -> int:
    """Number of processes that finish some equally long jobs soonest, if each uses one thread.

    It is torch's number of threads, but at most `jobs`; 1 on a GPU, or if that saves less time than a process needs to
    start.

    Args:
        seconds: Seconds that all jobs take one after the other.
        jobs: Number of jobs.
        device: Device that the jobs run on.
    """
    workers = max(1, min(torch.get_num_threads(), jobs))
    saved = seconds - seconds * -(-jobs // workers) / max(1, jobs)
    return workers if device.type == "cpu" and saved > _START_SECONDS else 1
