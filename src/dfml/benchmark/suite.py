"""Suites of benchmarks: their entries as typed settings, and how they are read by name (shipped) or path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from dfml.benchmark import ENDING, SUITES, shipped_suites
from dfml.errors import ConfigError
from dfml.evaluation.episodes import Shot, describe_task
from dfml.learners.base import ProtocolName
from dfml.settings import FrozenSettings, Settings, build_config, merge

EXTENDS = "extends"
"""Entry of a suite that names another suite, whose entries it inherits and overrides."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""Names; a single one may be written without a list."""

Ways = Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(_as_list)]
"""Numbers of classes; a single one may be written without a list."""


class DatasetSpec(FrozenSettings):
    """Notes and settings of a data set; its path is an option of the command, not part of the suite."""

    about: str = ""
    """Restriction that the page prints, such as that the data have a part of the benchmark's images only."""
    splits: str | None = None
    """Official class split, such as `cifar-fs`, for data without train, val and test folders; None: the split that has
    the data set's name, if there is one."""
    train_images: PositiveInt = 100
    """Images per training class; only for `glyphs`, which are rendered."""
    test_images: PositiveInt = 40
    """Images per test class; only for `glyphs`."""


class ZooSpec(FrozenSettings):
    """A zoo: built from training classes (`data`), an existing folder (`path`), or given on the command line."""

    path: str | None = None
    """Folder of an existing zoo, relative to the folder of the suite's file."""
    data: Names = ()
    """Data sets; `NAME@PIXELS`, such as `cub@84`, has another side length than `size`."""
    arch: Names = ("conv4",)
    """Architectures; members alternate between several."""
    way: Ways = (5,)
    """Classes per member; members alternate between several numbers."""
    members: PositiveInt | None = None
    """Number of members; None with `disjoint`: as many as there are disjoint sets of classes."""
    disjoint: bool = False
    """Whether no two members share a class."""
    recipe: str = "paper"
    """Training recipe of the members, `paper` or `strong`."""
    recipe_settings: dict[str, Any] = Field(default_factory=dict)
    """Settings that override those of the recipe, such as `{epochs: 10}`."""
    size: PositiveInt = 32
    """Side length in pixels, for data sets without `@PIXELS`."""
    seed: NonNegativeInt = 0
    """Seed of all random draws."""

    @property
    def sized_data(self) -> tuple[tuple[str, int], ...]:
        """Name and side length of each data set.

        Raises:
            ConfigError: If the text after an `@` is no positive integer.
        """
        found = []
        for name in self.data:
            base, separator, size = name.partition("@")
            if separator and not (size.isdecimal() and int(size) > 0):
                raise ConfigError(f"expected NAME@SIZE with a side length in pixels, found {name!r}")
            found.append((base, int(size) if separator else self.size))
        return tuple(found)


class MethodSpec(FrozenSettings):
    """One row of the tables: a method with its settings."""

    method: str | None = None
    """Name of the method, or `MODULE:CLASS`; None: the row's name."""
    preset: str | None = None
    """Named group of settings of the method."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings that override those of the preset and the defaults."""
    per_shot: bool = False
    """Whether to train once for every shot of the tasks (the larger number of a range); False: once, for the first
    task."""
    optional: bool = False
    """What to do if the method cannot learn from a zoo (such as averaging over two architectures). True: the table says
    why. False: the suite is refused."""
    seeds: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """Seeds of its trainings; None: those of the suite. One is enough for a method without random draws."""
    zoo: str | None = None
    """Zoo that the method learns from in every scenario; None: the zoos of the scenario."""


class ScenarioSpec(FrozenSettings):
    """Zoos to learn from and data sets to classify: one table per task."""

    zoos: Names = Field(min_length=1)
    """Zoos that every method learns from; several are combined into one."""
    tests: Names = Field(min_length=1)
    """Data sets whose test classes are the unseen classes. With several, the table has a column for their mean."""
    methods: Names | None = None
    """Rows of the tables; None: all methods of the suite."""
    about: str = ""
    """Sentence that the page prints above the tables."""


class TaskSpec(FrozenSettings):
    """Kind of evaluation episode."""

    way: int = Field(default=5, ge=2)
    """Classes per episode."""
    shot: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Support images per class; [FEWEST, MOST]: a random number in this range for every class."""

    @property
    def most(self) -> int:
        """Largest number of support images per class."""
        return self.shot if isinstance(self.shot, int) else self.shot[1]

    @property
    def name(self) -> str:
        """Such as `5-way 1-shot`."""
        shot: Shot = self.shot
        return describe_task(self.way, shot)


class Suite(FrozenSettings):
    """Everything that a benchmark measures, and how."""

    title: str = "Benchmark"
    """Heading of the page."""
    notes: tuple[str, ...] = ()
    """Sentences that the page prints above the tables."""
    datasets: dict[str, DatasetSpec] = Field(default_factory=dict)
    """Data sets by name; one whose settings are all defaults needs no entry."""
    zoos: dict[str, ZooSpec] = Field(min_length=1)
    """Zoos by name."""
    methods: dict[str, MethodSpec] = Field(min_length=1)
    """Methods by the name of their row; paired differences compare the first with each other one."""
    scenarios: dict[str, ScenarioSpec] = Field(min_length=1)
    """Scenarios by name."""
    tasks: tuple[TaskSpec, ...] = Field(default=(TaskSpec(),), min_length=1)
    """Kinds of evaluation episodes, one table each."""
    protocol: ProtocolName = "strict"
    """Batch-norm rule of training and evaluation, `strict` (inductive) or `paper` (transductive)."""
    query: PositiveInt = 15
    """Query images per class."""
    episodes: int = Field(default=600, ge=2)
    """Evaluation episodes of every task and data set, the same for all methods."""
    episode_seed: NonNegativeInt = 0
    """Seed of the evaluation episodes."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """Seeds of the trainings; tables show the mean over them."""
    test_split: Literal["test", "val"] = "test"
    """Split of the data sets whose classes are the unseen ones."""
    curve_episodes: NonNegativeInt = 100
    """Episodes per point of the learning curves (first seed, first task, first data set); 0: no curves."""


def load_suite(name: str) -> tuple[Suite, Path]:
    """Read and check a suite.

    Args:
        name: Name of a shipped suite, or path of a YAML file (what ends in `.yaml` or `.yml`, or exists as a file).

    Returns:
        The suite, and the folder that its relative paths are relative to: that of its file; of a shipped suite, the
        current one.

    Raises:
        ConfigError: If there is no such suite, it is not YAML, or an entry is unknown or has a wrong value.
    """
    values, folder = _read(name, seen=())
    suite = build_config(Suite, values, section=f"suite {name}")
    _check_names(name, suite)
    return suite, folder


def _read(name: str, seen: tuple[str, ...]) -> tuple[Settings, Path]:
    """Entries of a suite, merged with those of the suites that it extends, and the folder of its relative paths.

    `seen`: names of the suites on the way here, to detect a circle.
    """
    if name in seen:
        raise ConfigError(f"suite {name}: it extends itself by way of {', '.join(seen)}; remove one `{EXTENDS}`")
    is_path = name.endswith((ENDING, ".yml")) or Path(name).is_file()
    try:
        if is_path:
            text, folder = Path(name).read_text(encoding="utf-8"), Path(name).resolve().parent
        elif name in shipped_suites():
            text, folder = (
                (resources.files("dfml.benchmark") / SUITES / f"{name}{ENDING}").read_text("utf-8"),
                Path.cwd(),
            )
        else:
            known = ", ".join(shipped_suites())
            raise ConfigError(f"unknown suite {name!r}; choose one of {known}, or the path of a YAML file")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"suite {name}: it cannot be read as YAML ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"suite {name}: expected entries such as `zoos:` and `methods:`")
    base = values.pop(EXTENDS, None)
    if base is None:
        return values, folder
    own = folder / str(base)
    inherited, _ = _read(str(own) if is_path and own.is_file() else str(base), (*seen, name))
    return _without_null(merge(inherited, values)), folder


def _without_null(values: Settings) -> Settings:
    """Drop zoos, methods, scenarios and data sets that are null: so a suite removes what it would inherit."""
    return {
        key: {name: part for name, part in value.items() if part is not None} if isinstance(value, dict) else value
        for key, value in values.items()
    }


def _check_names(name: str, suite: Suite) -> None:
    """Check that scenarios and methods name zoos and methods of the suite."""

    def require(kind: str, wanted: str, known: dict[str, Any], where: str) -> None:
        if wanted not in known:
            raise ConfigError(f"suite {name}: {where} names the {kind} {wanted!r}; known are {', '.join(known)}")

    for title, scenario in suite.scenarios.items():
        for zoo in scenario.zoos:
            require("zoo", zoo, suite.zoos, f"the scenario {title!r}")
        for method in scenario.methods or ():
            require("method", method, suite.methods, f"the scenario {title!r}")
    for title, method_spec in suite.methods.items():
        if method_spec.zoo is not None:
            require("zoo", method_spec.zoo, suite.zoos, f"the method {title!r}")
    for title, zoo_spec in suite.zoos.items():
        if zoo_spec.path and zoo_spec.data:
            raise ConfigError(f"suite {name}: the zoo {title!r} has both `path` and `data`; keep one")
