"""A run's settings, put together from layers: defaults, preset, file, `--set`, options. Imported when a verb runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dfml.errors import ConfigError, UsageError
from dfml.files import check_format_version
from dfml.methods import find_method, method_names
from dfml.methods.base import Method
from dfml.methods.plugins import RUN_ENTRIES
from dfml.settings import Settings, build_config, merge, read_assignment
from dfml.training.loop import TrainingConfig
from dfml.zoo.label_space import ClassIdentity, check_identity

DEFAULT_METHOD = "zoo_student"
_COMMENT_WIDTH = 100


@dataclass(frozen=True)
class RunFile:
    """What a run's `config.yaml` says: enough to repeat the run.

    Attributes:
        method: That it is for.
        zoo: Path of the zoo.
        class_identity: How the zoo's classes are told apart.
        settings: Of each method that it speaks of.
    """

    method: type[Method] | None = None
    zoo: str | None = None
    class_identity: ClassIdentity = "names"
    settings: Mapping[str, Settings] = field(default_factory=dict)


def read_run_file(path: Path, asked: str | None = None) -> RunFile:
    """Read a `--config` file.

    Args:
        path: Of the file.
        asked: The method that the user asked for. A file can name methods, but not where code is that would be
            imported: `MODULE:CLASS` has to come from the user.

    Raises:
        ConfigError: If it cannot be read, or holds anything but `method`, `zoo` and sections of methods.
        UsageError: If it is for another method than the one asked for.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: expected `method:`, `zoo:` and settings below a method's name")
    if "format_version" in content:  # a file by hand needs none
        check_format_version(content["format_version"], f"--config {path}", ConfigError)
    for name in ("method", "zoo"):
        if not isinstance(content.get(name), str | None):
            raise ConfigError(f"--config {path}: expected text for {name!r}, found {content[name]!r}")
    method = _method_of_file(path, content.get("method"), asked)
    known = [*method_names(), *([method.name] if method else [])]
    sections = {key: value for key, value in content.items() if key not in RUN_ENTRIES}
    for name, section in sections.items():
        if name not in known:
            raise ConfigError(f"--config {path}: unknown entry {name!r}; known are method, zoo, {', '.join(known)}")
        if not isinstance(section, dict):
            raise ConfigError(f"--config {path}: expected settings below {name!r}, found {section!r}")
    identity = content.get("class_identity", "names")
    where = f"--config {path}"
    return RunFile(method, content.get("zoo"), check_identity(identity, where), sections)


def _method_of_file(path: Path, named: str | None, asked: str | None) -> type[Method] | None:
    """The method that a file is for; where the user asked for one, that one."""
    if asked is None:
        if named is None or named in method_names():
            return find_method(named) if named else None
        raise ConfigError(
            f"--config {path}: unknown method {named!r}; if a Python file of yours holds it, add --method MODULE:CLASS"
        )
    method = find_method(asked)
    if named not in (None, asked, method.name):
        raise UsageError(f"--method {asked} contradicts the --config file, which is for {named}; drop one of them")
    return method


def choose_method(asked: str | None, file: RunFile) -> type[Method]:
    """The method that the user asked for, or the file's, or the default.

    Raises:
        UsageError: If there is none of that name, or nobody names one and the file has settings of others only.
    """
    if not (file.method or asked) and file.settings and DEFAULT_METHOD not in file.settings:
        spoken = ", ".join(file.settings)
        raise UsageError(f"the --config file has settings of {spoken}, but names no method; add `method:` or --method")
    return file.method or find_method(asked or DEFAULT_METHOD)


def resolve(
    method: type[Method], preset: str | None, file: RunFile, assignments: Sequence[str], options: Settings
) -> TrainingConfig:
    """All settings of a run; each layer overrides the ones before.

    Args:
        method: Whose settings; its defaults come first.
        preset: A name of `method.presets`.
        file: Of `--config`.
        assignments: Of `--set`: `METHOD.NAME=VALUE`, the value in YAML.
        options: Settings that have an option of their own; None where it was not used.

    Raises:
        UsageError: If there is no such preset, or an assignment is of another form.
        ConfigError: If a setting is unknown or has a wrong value.
    """
    if preset is not None and preset not in method.presets:
        known = ", ".join(method.presets) or "none"
        raise UsageError(f"unknown preset {preset!r} of {method.name}; known are: {known}")
    layers = [
        method.presets[preset] if preset else {},
        file.settings.get(method.name, {}),
        *(read_assignment(assignment, method.name) for assignment in assignments),
        {name: value for name, value in options.items() if value is not None},
    ]
    # Starts from the method's own defaults: those of a nested part may differ from the part's.
    settings = method.config_type().model_dump()
    for layer in layers:
        settings = merge(settings, layer)
    return build_config(method.config_type, settings)


def explain(config: TrainingConfig, method: str, zoo: str | None) -> str:
    """The settings as a YAML file with a comment on each: what `--config` takes."""
    head = [f"method: {method}", *([f"zoo: {_inline(zoo)}"] if zoo else []), f"{method}:"]
    return "\n".join([*head, *_explain(config, "  ")]) + "\n"


def _explain(config: BaseModel, indent: str) -> Iterator[str]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        nested = isinstance(value, BaseModel)
        text = _meaning(type(config), name) or (type(value).__doc__ if nested else None) or ""
        one_line, mark = " ".join(text.split()), f"{indent}# "
        yield from textwrap.wrap(one_line, _COMMENT_WIDTH, initial_indent=mark, subsequent_indent=mark)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _explain(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_inline(value)}"


def _meaning(kind: type[BaseModel], name: str) -> str | None:
    """What a setting means; a class that only changes the default leaves the words to the one it inherits from."""
    fields = (base.model_fields.get(name) for base in kind.__mro__ if issubclass(base, BaseModel))
    return next((about.description for about in fields if about and about.description), None)


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
