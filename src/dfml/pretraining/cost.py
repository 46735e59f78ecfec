"""What training an architecture costs here, measured on a few images: decides whether processes are worth starting."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional

from dfml.backbones import create_backbone, sized
from dfml.pretraining.classifier_training import one_thread

_IMAGES = 16
_START = 5.0  # seconds until a process has imported torch and timm


def seconds_per_image(architecture: str, arguments: dict[str, Any], classes: int, size: int) -> float:
    """Seconds that one thread needs to learn from one image once.

    Raises:
        UsageError: If the network cannot be built, or cannot take images of this size.
    """
    network = create_backbone(architecture, classes, seed=0, **arguments).to(memory_format=torch.channels_last)
    images = torch.zeros(_IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(_IMAGES, dtype=torch.long)
    seconds = []
    with one_thread(), torch.random.fork_rng(devices=[]):
        for _ in range(2):
            start = time.perf_counter()
            with sized(architecture, size):
                torch.autograd.backward(functional.cross_entropy(network(images), labels))
            seconds.append(time.perf_counter() - start)
    return min(seconds) / _IMAGES


def best_workers(seconds: float, jobs: int, device: torch.device) -> int:
    """How many processes finish `jobs`, which take `seconds` in all one after the other, soonest.

    Torch's number of threads is taken as the number of cores that may be used.
    """
    workers = max(1, min(torch.get_num_threads(), jobs))
    saved = seconds - seconds * -(-jobs // workers) / max(1, jobs)
    return workers if device.type == "cpu" and saved > _START else 1
