"""A suite of a benchmark as data: zoos, methods, scenarios and tasks. Shipped ones by name, a user's by path."""

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
"""Entry of a suite that names the suite whose entries it changes."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Ways = Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(_as_list)]


class DatasetSpec(FrozenSettings):
    """What a suite says of a data set; where it lies is an option of the command."""

    about: str = ""
    """Restriction that a reader of the tables must know, such as the number of images."""
    splits: str | None = None
    """Class split of a benchmark that divides data without train, val and test folders; None: the split of the data
    set's own name, if there is one."""
    train_images: PositiveInt = 100
    """Images per training class; for `glyphs`, which are rendered, only."""
    test_images: PositiveInt = 40
    """Images per test class; for `glyphs` only."""


class ZooSpec(FrozenSettings):
    """A zoo: built from training classes (`data`), an existing folder (`path`), or given on the command line."""

    path: str | None = None
    """Folder of an existing zoo, relative to the folder of the suite's file."""
    data: Names = ()
    """Data sets, each with its side length in pixels behind an `@` where it is not `size`: `cub@84`."""
    arch: Names = ("conv4",)
    """Architectures, which members take in turn."""
    way: Ways = (5,)
    """Classes per member; several numbers are taken in turn."""
    members: PositiveInt | None = None
    """Number of members; None with `disjoint`: as many as there are disjoint sets of classes."""
    disjoint: bool = False
    """Give each class to one member at most."""
    recipe: str = "paper"
    """Training recipe of the members, `paper` or `strong`."""
    recipe_settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe that differ, such as `{epochs: 10}`."""
    size: PositiveInt = 32
    """Side length in pixels of the images of data sets without a size of their own."""
    seed: NonNegativeInt = 0
    """Seed of all random draws."""

    @property
    def sized_data(self) -> tuple[tuple[str, int], ...]:
        """Name and side length of each data set.

        Raises:
            ConfigError: If what follows an `@` is no side length.
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
    """Settings that differ from the preset and from the defaults."""
    per_shot: bool = False
    """Train once for every number of support images (`shot` of the training episodes); False: once, for the first
    task. Of a range, the larger number counts."""
    optional: bool = False
    """Whether the method may be unable to learn from a zoo, such as averaging over two architectures. The table then
    says why; without it, the suite is refused."""
    seeds: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """Seeds of its trainings in place of the suite's: one for a method without random draws, or a long training."""
    zoo: str | None = None
    """Zoo that the method gets in every scenario, in place of the scenario's."""


class ScenarioSpec(FrozenSettings):
    """What is learnt from, and what is classified: one group of tables."""

    zoos: Names = Field(min_length=1)
    """Zoos that every method gets; several become one zoo."""
    tests: Names = Field(min_length=1)
    """Data sets whose test classes are the unseen classes. With several, their mean is a column too."""
    methods: Names | None = None
    """Rows of the tables; None: all methods of the suite."""
    about: str = ""
    """One sentence for the page."""


class TaskSpec(FrozenSettings):
    """Kind of evaluation episode."""

    way: int = Field(default=5, ge=2)
    """Classes per episode."""
    shot: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Support images per class; [FEWEST, MOST] gives every class its own number out of this range."""

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
    """Everything that a benchmark measures."""

    title: str = "Benchmark"
    """Heading of the page."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the tables must know."""
    datasets: dict[str, DatasetSpec] = Field(default_factory=dict)
    """Data sets of which there is something to say, by name; others need no entry."""
    zoos: dict[str, ZooSpec] = Field(min_length=1)
    """Zoos by name."""
    methods: dict[str, MethodSpec] = Field(min_length=1)
    """Methods by the name of their row; the first is compared with all others."""
    scenarios: dict[str, ScenarioSpec] = Field(min_length=1)
    """Scenarios by name."""
    tasks: tuple[TaskSpec, ...] = Field(default=(TaskSpec(),), min_length=1)
    """Kinds of episodes, one table each."""
    protocol: ProtocolName = "strict"
    """Evaluation protocol of training and test."""
    query: PositiveInt = 15
    """Query images per class."""
    episodes: int = Field(default=600, ge=2)
    """Evaluation episodes of every task and data set, the same for all methods."""
    episode_seed: NonNegativeInt = 0
    """Seed of the evaluation episodes."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """Seeds of the trainings; the tables have their mean."""
    test_split: Literal["test", "val"] = "test"
    """Part of the data whose classes are the unseen classes."""
    curve_episodes: NonNegativeInt = 100
    """Episodes of each point of the learning curves (first seed, first task, first data set); 0: no curves."""


def load_suite(name: str) -> tuple[Suite, Path]:
    """Read and check a suite.

    Args:
        name: Name of a shipped suite, or path of a YAML file (what ends in `.yaml` or `.yml`, or exists as a file).

    Returns:
        The suite, and the folder that its relative paths start from.

    Raises:
        ConfigError: If there is no such suite, it is not YAML, or an entry is unknown or has a wrong value.
    """
    values, folder = _read(name, seen=())
    suite = build_config(Suite, values, section=f"suite {name}")
    _check_names(name, suite)
    return suite, folder


def _read(name: str, seen: tuple[str, ...]) -> tuple[Settings, Path]:
    """Entries of a suite, with those of the suites that it extends."""
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
    below, _ = _read(str(own) if is_path and own.is_file() else str(base), (*seen, name))
    return _without_null(merge(below, values)), folder


def _without_null(values: Settings) -> Settings:
    """Remove the zoos, methods, scenarios and data sets that a suite takes from the one that it extends (null)."""
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
