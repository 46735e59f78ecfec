"""The choice of an inversion engine: one name, and a section of settings for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from pydantic import PositiveInt
from torch import Tensor

from dfml.inversion.cmi import ContrastiveConfig, ContrastiveInversion
from dfml.inversion.ei import PixelInversion, PixelInversionConfig
from dfml.inversion.engine import Engine
from dfml.inversion.meta_generator import FastDfkdConfig, FiveConfig, MetaGenerator
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing

EngineName = Literal["five", "fast_dfkd", "cmi", "ei"]
ENGINES: tuple[str, ...] = get_args(EngineName)


def engine_names() -> tuple[str, ...]:
    """Names of all inversion engines."""
    return ENGINES


class InversionConfig(FrozenSettings):
    """Which engine recovers images, and the settings of each; only those of the chosen one count."""

    engine: EngineName = "five"
    """`five`: a generator that is meta-learned over members (FREE). `fast_dfkd`: the same, as in FastDFKD. `cmi`: a
    generator from scratch for every member, with a contrastive term. `ei`: pixels, as in PURER and DeepInversion."""
    classes_per_round: PositiveInt = 20
    """Of a member with more, a visit recovers images of so many: those of a thousand classes at once would not fit any
    memory. Trainings draw them at random, `dfml invert` takes them in turn."""
    five: FiveConfig = FiveConfig()
    fast_dfkd: FastDfkdConfig = FastDfkdConfig()
    cmi: ContrastiveConfig = ContrastiveConfig()
    ei: PixelInversionConfig = PixelInversionConfig()


def create_engine(
    config: InversionConfig,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    stacked: bool | None = None,
) -> Engine:
    """The engine that a config names.

    Args:
        config: See `InversionConfig`.
        preprocessing: Of the images that generators draw; pixels are as large as each member's input.
        seed: Of all draws.
        device: Where it lives; None: the CPU.
        stacked: Evaluate members of one architecture in one call; None: on a GPU only, where that is faster.
    """
    if config.engine == "ei":
        return PixelInversion(config.ei, seed)
    together = stacked if stacked is not None else device is not None and device.type == "cuda"
    if config.engine == "cmi":
        return ContrastiveInversion(config.cmi, preprocessing, seed=seed, device=device, stacked=together)
    settings = config.five if config.engine == "five" else config.fast_dfkd
    return MetaGenerator(settings, preprocessing, seed=seed, device=device, stacked=together)


@dataclass(frozen=True)
class LearnedEngine:
    """An engine that a run has meta-trained, with all that it takes to use it on members that the run never saw.

    Attributes:
        config: The run's inversion settings; `config.engine` names the engine.
        preprocessing: Size, mean and standard deviation of the images that it generates.
        tensors: Its `state_dict`, without what it remembers of single members: a new member may bear the same name.
        source: Where it was read from, for messages.
    """

    config: InversionConfig
    preprocessing: Preprocessing
    tensors: dict[str, Tensor]
    source: str = "memory"
