"""The inversion engines by name, the settings that choose one, and an engine that a run has meta-trained.

dfml's own engines are `ei`, `consensus`, `cmi`, `five`, `fast_dfkd` and `zeroth_order`. Others are registered with
`register_engine`, or declared by an installed package as an entry point of `dfml.engines` whose object is an
`EngineEntry`; nothing else is needed to use one in a training (`--set free.inversion.engine=NAME`) or in
`dfml invert --engine NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from torch import Tensor

from dfml.errors import ConfigError, UsageError
from dfml.inversion.cmi import ContrastiveConfig, ContrastiveInversion
from dfml.inversion.consensus import ConsensusConfig, ConsensusInversion
from dfml.inversion.ei import PixelInversion, PixelInversionConfig
from dfml.inversion.engine import Engine, StatisticsMemory
from dfml.inversion.meta_generator import FastDfkdConfig, FiveConfig, MetaGenerator
from dfml.inversion.zeroth_order import ZerothOrderConfig, ZerothOrderInversion
from dfml.registries import Registry
from dfml.settings import FrozenSettings, build_config
from dfml.zoo.members import Differentiable, Predicts, unmet_need
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier


@runtime_checkable
class CreateEngine(Protocol):
    """Builds an engine from its settings."""

    def __call__(
        self, settings: Any, preprocessing: Preprocessing, *, seed: int, device: torch.device | None, stacked: bool
    ) -> Engine:
        """Build the engine; see `create_engine` for the arguments."""


@dataclass(frozen=True)
class EngineEntry:
    """What an engine declares of itself.

    Attributes:
        settings: Type of its settings: a subclass of `FrozenSettings` whose fields have defaults, among them `steps`
            and `weights` (`InversionWeights`).
        create: Builds the engine.
        meta_trained: Whether it must learn in a training before `dfml invert` can use it.
        shares_pixels: Whether several members may be shown the same pixels; targets then carry `Target.images`.
        needs: Type that members must have; others are excluded. `Differentiable`, the default: logits that are
            differentiable in the images. `PretrainedClassifier`: for engines that use `Target.network`, as dfml's own
            do. `Predicts`: all members.
    """

    settings: type[FrozenSettings]
    create: CreateEngine
    meta_trained: bool = False
    shares_pixels: bool = False
    needs: type[Any] = Differentiable


def _create_ei(
    settings: PixelInversionConfig,
    preprocessing: Preprocessing,
    *,
    seed: int,
    device: torch.device | None,
    stacked: bool,
) -> Engine:
    return PixelInversion(settings, seed)


ENGINES: Registry[EngineEntry] = Registry(
    "engine",
    "dfml.engines",
    {
        "five": EngineEntry(FiveConfig, MetaGenerator, meta_trained=True, needs=PretrainedClassifier),
        "fast_dfkd": EngineEntry(FastDfkdConfig, MetaGenerator, meta_trained=True, needs=PretrainedClassifier),
        "cmi": EngineEntry(ContrastiveConfig, ContrastiveInversion, needs=PretrainedClassifier),
        "ei": EngineEntry(PixelInversionConfig, _create_ei, needs=PretrainedClassifier),
        "zeroth_order": EngineEntry(ZerothOrderConfig, ZerothOrderInversion, needs=Predicts),
        "consensus": EngineEntry(ConsensusConfig, ConsensusInversion, shares_pixels=True, needs=PretrainedClassifier),
    },
)


def register_engine(name: str, entry: EngineEntry) -> None:
    """Make an engine available under a name, which is also the name of its section of settings.

    Raises:
        UsageError: If the name is one of dfml's own.
    """
    ENGINES.register(name, entry)


def engine_names() -> tuple[str, ...]:
    """Names of all engines, dfml's own first; nothing is imported."""
    return ENGINES.names()


class InversionConfig(FrozenSettings):
    """Which engine recovers images, and a section of settings per engine; only that of the chosen engine is used.

    The section of an engine from outside the package is named like the engine and validated by its settings type.
    """

    model_config = ConfigDict(extra="allow")

    engine: str = "five"
    """Name of the inversion engine. `ei`: optimises pixels (PURER, DeepInversion).
    `consensus`: the same with one set of pixels per class, for all members of a round that have the class. `cmi`:
    trains a generator from scratch for every member (CMI). `five`: a meta-learned generator that adapts to a member in
    five steps (FREE). `fast_dfkd`: the same with the settings of FastDFKD. `zeroth_order`: as `cmi`, for members that
    only predict, with gradients estimated from many queries (BiDf-MKD)."""
    classes_per_round: PositiveInt = 20
    """Largest number of classes of a member whose images are recovered in one round; bounds the memory for members of
    many classes. Trainings draw the classes at random, `dfml invert` takes them in turn."""
    confirmed_only: bool = True
    """Whether a recovered image is labelled only if its own member, queried with the image as it is stored (rounded to
    bytes, at the learner's size), predicts the label. Others are used without a label, where a method can, or not at
    all. A member is excluded if it predicts the same probabilities for all its images, or if for `patience` rounds in a
    row it recognises fewer than 5% of them, or no more than by chance while most other members recognise more."""
    memory: PositiveFloat = 2.0
    """Memory in GiB that the images of one backward pass through a member may take, in dfml's own engines; the
    activations of a generator or a student are not counted. More images are passed in chunks, which gives the same
    gradient and takes about a third longer."""
    budget: NonNegativeFloat = 1.0
    """Largest cost of one member's round in a training, relative to a Conv4 with 64 channels and `classes_per_round`
    classes at 32 x 32 pixels; 0: no limit. A member that costs more has images of fewer classes per round (at least
    five), then fewer images of each, then fewer steps; the run says which. The queries of `zeroth_order` are not
    counted. `dfml invert` recovers all images."""
    fallback: PixelInversionConfig | None = None
    """Settings of engine `ei` for members that recognise at most half of the images which `engine` recovers from them
    in their first round of a training: their images are recovered by these settings then and later, in rounds of the
    same `budget`. None: all members are inverted by `engine`."""
    five: FiveConfig = FiveConfig()
    fast_dfkd: FastDfkdConfig = FastDfkdConfig()
    cmi: ContrastiveConfig = ContrastiveConfig()
    ei: PixelInversionConfig = PixelInversionConfig()
    consensus: ConsensusConfig = ConsensusConfig()
    zeroth_order: ZerothOrderConfig = ZerothOrderConfig()

    @field_validator("engine")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in engine_names():
            raise ValueError(f"unknown engine; choose one of {', '.join(engine_names())}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _sections_of_other_packages(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        others = {name for name in engine_names() if name not in cls.model_fields}
        for name in values.keys() - cls.model_fields.keys():
            if name not in others:
                known = ", ".join([*cls.model_fields, *sorted(others)])
                raise ValueError(f"unknown setting {name!r}; known are {known}")
        for name in others & ({*values} | {values.get("engine", "five")}):
            section = values.get(name, {})
            if not isinstance(section, BaseModel):
                try:
                    values[name] = build_config(ENGINES.find(name).settings, section)
                except ConfigError as error:
                    raise ValueError(f"{name}: {error}") from error
        return values

    @property
    def memory_limit(self) -> int:
        """`memory` in bytes."""
        return int(self.memory * 2**30)

    def section(self, engine: str | None = None) -> Any:
        """Settings of an engine; of the chosen one by default."""
        name = engine or self.engine
        found = getattr(self, name, None)
        return ENGINES.find(name).settings() if found is None else found


def create_engine(
    config: InversionConfig,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    stacked: bool | None = None,
) -> Engine:
    """Build the engine that a config names.

    Args:
        config: The name of the engine and its settings.
        preprocessing: Size, mean and standard deviation of the images that generators produce; engines that optimise
            pixels use each member's own.
        seed: Seed of all draws.
        device: Device of the engine; None: the CPU.
        stacked: Whether members of one architecture are evaluated in one call; None: on a GPU only, where it is faster.

    Raises:
        UsageError: If the engine is declared by a package that cannot be imported.
    """
    together = stacked if stacked is not None else device is not None and device.type == "cuda"
    entry = ENGINES.find(config.engine)
    engine = entry.create(config.section(), preprocessing, seed=seed, device=device, stacked=together)
    engine.memory_limit = config.memory_limit
    return engine


def shares_pixels(engine: str) -> bool:
    """Whether an engine shows the same images to several members (`EngineEntry.shares_pixels`)."""
    return ENGINES.find(engine).shares_pixels


def missing_requirement(engine: str, member: Predicts) -> str | None:
    """Reason why an engine cannot invert a member (`EngineEntry.needs`), for messages; None if it can.

    Args:
        engine: Name of the engine.
        member: Member of a zoo.
    """
    return unmet_need(member, ENGINES.find(engine).needs, f"the engine {engine}")


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


def without_member_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an engine's state that do not belong to a single member."""
    return {name: value for name, value in tensors.items() if not name.startswith(StatisticsMemory.PREFIX)}


def require_learned(engine: str, learned: LearnedEngine | None) -> None:
    """Check that a meta-trained engine comes with what it has learned, and no other does.

    Raises:
        UsageError: If it does not; says what to do.
    """
    if ENGINES.find(engine).meta_trained and learned is None:
        raise UsageError(
            f"the engine {engine} needs what a run has meta-trained: add --from RUN "
            f"(made by `dfml train ZOO --method free --set free.inversion.engine={engine} --out RUN`)"
        )
    if learned is not None and not ENGINES.find(engine).meta_trained:
        raise UsageError(f"the engine {engine} learns nothing in a run: drop --from, or choose another --engine")
    if learned is not None and learned.config.engine != engine:
        raise UsageError(
            f"{learned.source} has meta-trained {learned.config.engine}, not {engine}: use --engine "
            f"{learned.config.engine}"
        )
