"""Settings of a run from layers: defaults, preset, file, `--set`, options. Imported when a subcommand runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dfml.cli.options import DEFAULT_METHOD
from dfml.errors import ConfigError, UsageError
from dfml.files import check_format_version
from dfml.methods import find_method, method_names
from dfml.methods.base import Method
from dfml.methods.plugins import RUN_ENTRIES
from dfml.settings import Settings, override, read_assignment
from dfml.training.loop import TrainingConfig
from dfml.zoo.label_space import ClassIdentity, check_identity

_COMMENT_WIDTH = 100


@dataclass(frozen=True)
class RunFile:
    """Content of a `--config` file, such as the `config.yaml` of a run.

    Attributes:
        method: Method to train: that of `--method`, else that of the file; None if neither names one.
        zoo: Paths of the zoos; none if the file names none.
        start_from: Checkpoint of another run that the run starts from; None if the file names none.
        class_identity: Which labels of different members mean the same class.
        left_out: Names of members that the run has left out.
        settings: Name of a method -> its settings; those of other methods are ignored.
    """

    method: type[Method] | None = None
    zoo: tuple[str, ...] = ()
    start_from: str | None = None
    class_identity: ClassIdentity = "names"
    left_out: tuple[str, ...] = ()
    settings: Mapping[str, Settings] = field(default_factory=dict)


def read_run_file(path: Path, requested: str | None = None) -> RunFile:
    """Read a `--config` file.

    Args:
        path: Path of the YAML file.
        requested: Value of `--method`; None if it was not given. A file names methods by their names only: no module
            is imported because a file says so, `MODULE:CLASS` has to come from the user.

    Raises:
        ConfigError: If the file cannot be read, has another format version, or holds anything but the entries of a
            run's `config.yaml`.
        UsageError: If the file is for another method than `requested`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: expected `method:`, `zoo:` and settings below a method's name")
    if "format_version" in content:  # files that users write need not have it
        check_format_version(content["format_version"], f"--config {path}", ConfigError)
    zoo = content.get("zoo") or []
    zoos = zoo if isinstance(zoo, list) else [zoo]
    if not all(isinstance(each, str) for each in zoos):
        raise ConfigError(f"--config {path}: expected a path or a list of paths for 'zoo', found {zoo!r}")
    for name in ("method", "start_from"):
        if not isinstance(content.get(name), str | None):
            raise ConfigError(f"--config {path}: expected text for {name!r}, found {content[name]!r}")
    method = _method_of_file(path, content.get("method"), requested)
    known = [*method_names(), *([method.name] if method else [])]
    sections = {key: value for key, value in content.items() if key not in RUN_ENTRIES}
    for name, section in sections.items():
        if name not in known:
            raise ConfigError(
                f"--config {path}: unknown entry {name!r}; known are method, zoo, class_identity, {', '.join(known)}"
            )
        if not isinstance(section, dict):
            raise ConfigError(f"--config {path}: expected settings below {name!r}, found {section!r}")
    identity = content.get("class_identity", "names")
    left_out = content.get("left_out") or []
    if not isinstance(left_out, list) or not all(isinstance(each, str) for each in left_out):
        raise ConfigError(f"--config {path}: expected a list of members' names for 'left_out', found {left_out!r}")
    where = f"--config {path}"
    return RunFile(
        method, tuple(zoos), content.get("start_from"), check_identity(identity, where), tuple(left_out), sections
    )


def _method_of_file(path: Path, named: str | None, requested: str | None) -> type[Method] | None:
    """Find the method of a file; `requested` comes before what the file names."""
    if requested is None:
        if named is None or named in method_names():
            return find_method(named) if named else None
        raise ConfigError(
            f"--config {path}: unknown method {named!r}; if it is in a Python file of yours, add --method MODULE:CLASS"
        )
    method = find_method(requested)
    if named not in (None, requested, method.name):
        raise UsageError(f"--method {requested} contradicts the --config file, which is for {named}; drop one of them")
    return method


def choose_method(requested: str | None, file: RunFile) -> type[Method]:
    """Choose the requested method, else the file's, else the default.

    Raises:
        UsageError: If there is no method of that name, or none is named and the file has settings of others only.
    """
    if not (file.method or requested) and file.settings and DEFAULT_METHOD not in file.settings:
        names = ", ".join(file.settings)
        raise UsageError(f"the --config file has settings of {names}, but names no method; add `method:` or --method")
    # `file.method` already is the requested method, if one is requested.
    return file.method or find_method(requested or DEFAULT_METHOD)


def resolve(
    method: type[Method], preset: str | None, file: RunFile, assignments: Sequence[str], options: Settings
) -> TrainingConfig:
    """Merge all layers of a run's settings; each overrides those before.

    Args:
        method: The method, whose defaults are the first layer.
        preset: A name of `method.presets`; None for none.
        file: Content of the `--config` file.
        assignments: Values of `--set`: `METHOD.NAME=VALUE`, with VALUE in YAML.
        options: Settings that have an option of their own; None for an option that was not given.

    Raises:
        UsageError: If there is no such preset, or an assignment has another form.
        ConfigError: If a setting is unknown or has a wrong value.
    """
    layers = [
        method.preset_settings(preset),
        file.settings.get(method.name, {}),
        *(read_assignment(assignment, method.name) for assignment in assignments),
        {name: value for name, value in options.items() if value is not None},
    ]
    return override(method.config_type(), *layers, section=method.name)


def explain(config: TrainingConfig, method: str, zoos: Sequence[str]) -> str:
    """Format settings as a YAML file with a comment on each, which `--config` reads.

    Args:
        config: The settings.
        method: Name of the method.
        zoos: Paths of the zoos; none leaves them out.
    """
    zoo = [f"zoo: {_inline(zoos[0] if len(zoos) == 1 else list(zoos))}"] if zoos else []
    head = [f"method: {method}", *zoo, f"{method}:"]
    return "\n".join([*head, *_explain(config, "  ")]) + "\n"


def _explain(config: BaseModel, indent: str) -> Iterator[str]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        nested = isinstance(value, BaseModel)
        text = _description(type(config), name) or (type(value).__doc__ if nested else None) or ""
        one_line, prefix = " ".join(text.split()), f"{indent}# "
        yield from textwrap.wrap(one_line, _COMMENT_WIDTH, initial_indent=prefix, subsequent_indent=prefix)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _explain(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_inline(value)}"


def _description(kind: type[BaseModel], name: str) -> str | None:
    """Description of a setting: of the nearest class in the inheritance order that has one."""
    fields = (base.model_fields.get(name) for base in kind.__mro__ if issubclass(base, BaseModel))
    return next((field.description for field in fields if field and field.description), None)


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
