"""Engines that are small enough for a test, members for them, and a student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dfml.backbones import create_backbone
from dfml.inversion.cmi import ContrastiveConfig
from dfml.inversion.consensus import ConsensusConfig
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.engine import Engine, InversionRun, Target, balanced_labels
from dfml.inversion.loss import InversionLoss
from dfml.inversion.meta_generator import FastDfkdConfig, FiveConfig, MetaGenerator
from dfml.inversion.registry import InversionConfig, create_engine
from dfml.inversion.zeroth_order import ZerothOrderConfig
from dfml.zoo import Preprocessing, PretrainedClassifier
from tests.factories import PREPROCESSING, member

SMALL: dict[str, Any] = {"width": 8, "latent": 16, "lr": 0.01, "latent_lr": 0.05}


def small_config(name: str, **settings: Any) -> InversionConfig:
    """Defaults of an engine, except for the size of the generator, the number of steps, and `settings`."""
    sections = {
        "five": FiveConfig(**{**SMALL, **(settings if name == "five" else {})}),
        "fast_dfkd": FastDfkdConfig(**{**SMALL, **(settings if name == "fast_dfkd" else {})}),
        "cmi": ContrastiveConfig(**{**SMALL, "steps": 12, **(settings if name == "cmi" else {})}),
        "zeroth_order": ZerothOrderConfig(
            **{**SMALL, "steps": 12, "directions": 16, **(settings if name == "zeroth_order" else {})}
        ),
        "ei": PixelInversionConfig(
            **{"start": "noise", "steps": 12, "search_steps": 0, **(settings if name == "ei" else {})}
        ),
        "consensus": ConsensusConfig(
            **{"start": "noise", "steps": 12, "search_steps": 0, **(settings if name == "consensus" else {})}
        ),
    }
    return InversionConfig(engine=name, **sections)


def small_engine(
    name: str, preprocessing: Preprocessing = PREPROCESSING, *, seed: int = 0, stacked: bool = False, **settings: Any
) -> Engine:
    return create_engine(small_config(name, **settings), preprocessing, seed=seed, stacked=stacked)


def five(preprocessing: Preprocessing = PREPROCESSING, *, stacked: bool = False, **settings: Any) -> MetaGenerator:
    engine = small_engine("five", preprocessing, stacked=stacked, **settings)
    assert isinstance(engine, MetaGenerator)
    return engine


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default type in a block; float64 for comparisons that rounding errors would disturb."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def conv(
    seed: int, labels: tuple[str, ...] = ("a", "b", "c"), preprocessing: Preprocessing = PREPROCESSING
) -> PretrainedClassifier:
    """The member of `tests.factories`, in torch's default type."""
    with precision(torch.float32):
        made = member(seed, labels, preprocessing)
    return made.to(torch.get_default_dtype())


def resnet(seed: int, labels: tuple[str, ...] = ("a", "b", "c"), size: int = 16) -> PretrainedClassifier:
    """A member of another architecture than `conv`."""
    network = create_backbone("fewshot_resnet10", len(labels), seed=seed)
    return PretrainedClassifier(network, labels, Preprocessing(size, (0.5, 0.4, 0.3), (0.3, 0.3, 0.3)))


def target(name: str, classifier: PretrainedClassifier, per_class: int = 2, rows: Tensor | None = None) -> Target:
    return Target(name, classifier, balanced_labels(len(classifier.labels), per_class), rows)


def targets(seeds: Sequence[int], per_class: int = 2) -> list[Target]:
    return [target(f"member {seed}", conv(seed), per_class) for seed in seeds]


def run_round(engine: Engine, members: Sequence[Target], number: int = 0, *, steps: int | None = None) -> InversionRun:
    """Run a round with `steps` steps; None for the engine's own number of steps."""
    inversion = engine.start(members, number)
    for _ in range(steps or engine.steps):
        inversion.step()
    return inversion


def losses(inversion: InversionRun, steps: int) -> list[list[InversionLoss]]:
    return [inversion.step() for _ in range(steps)]


class CoarseStudent:
    """A linear student with eight outputs on images reduced to 4 x 4 pixels; its logits are smooth in the images."""

    def __init__(self) -> None:
        self.head = torch.randn(8, 48, generator=torch.Generator().manual_seed(5))

    def __call__(self, images: Tensor, rows: Tensor | None) -> Tensor:
        logits = functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.head.T
        return logits if rows is None else logits[:, rows]
