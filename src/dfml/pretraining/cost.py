"""What training an architecture costs here, measured on a few images: decides whether processes are worth starting."""

from __future__ import annotations

import time
from typing import Any

import timm
import torch
from torch.nn import functional

from dfml.backbones import BACKBONES, create_backbone
from dfml.errors import UsageError
from dfml.pretraining.train import one_thread

_IMAGES = 16
_START = 5.0  # seconds until a process has imported torch and timm


def architecture_arguments(architecture: str, size: int) -> dict[str, Any]:
    """The arguments that make an architecture take images of `size` x `size` pixels."""
    fixed = architecture in BACKBONES or _has_fixed_size(architecture)
    return {"img_size": size} if fixed else {}


def _has_fixed_size(architecture: str) -> bool:
    known = timm.models.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    return bool(known and known.fixed_input_size)


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
            try:
                torch.autograd.backward(functional.cross_entropy(network(images), labels))
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = " ".join(str(error).split())
                raise UsageError(
                    f"architecture {architecture!r} cannot learn from images of {size} x {size} pixels: {reason}"
                ) from error
            seconds.append(time.perf_counter() - start)
    return min(seconds) / _IMAGES


def best_workers(seconds: float, jobs: int, device: torch.device) -> int:
    """How many processes finish `jobs`, which take `seconds` in all one after the other, soonest.

    Torch's number of threads is taken as the number of cores that may be used.
    """
    workers = max(1, min(torch.get_num_threads(), jobs))
    saved = seconds - seconds * -(-jobs // workers) / max(1, jobs)
    return workers if device.type == "cpu" and saved > _START else 1
