"""Typed settings: their base class, validation with one clear error, merging of layers, and `--set` assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dfml.errors import ConfigError, UsageError

Config = TypeVar("Config", bound=BaseModel)

_MOST_SHOWN = 200  # characters of a wrong value in a message

Settings = dict[str, Any]
"""Nested plain values, as a YAML file holds them."""


class FrozenSettings(BaseModel):
    """Base class of all settings: immutable, without unknown names, NaN or infinity.

    The docstring below a field is its description, which `dfml train --show-config` prints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def build_config(kind: type[Config], settings: Mapping[str, Any], *, section: str = "") -> Config:
    """Validate settings.

    Args:
        kind: Class of the config.
        settings: Nested values; defaults of `kind` replace missing ones.
        section: Name of the method, or of another section, that the settings belong to; it precedes the names of
            settings in messages. Default: none.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value; the message names the first one, the value that was
            found and what is possible.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        path = [*([section] if section else []), *map(str, first["loc"])]
        if first["type"] == "extra_forbidden":
            reason = f"unknown setting; {_suggestion(path, _fields(kind, first['loc'][:-1]))}"
        else:
            found = repr(first["input"])
            reason = f"{first['msg']} (found {found if len(found) <= _MOST_SHOWN else found[:_MOST_SHOWN] + '...'})"
        raise ConfigError(f"setting {'.'.join(path)!r}: {reason}") from error


def _suggestion(path: Sequence[str], known: Sequence[str]) -> str:
    """Name the setting that an unknown one resembles, if any, and all that are known beside it."""
    similar = get_close_matches(path[-1], known, n=1)
    guess = f"did you mean {'.'.join([*path[:-1], *similar])!r}? " if similar else ""
    return f"{guess}{'Known' if guess else 'known'} are {', '.join(known)}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """Merge two layers of settings.

    Args:
        base: The lower layer.
        over: The upper layer. Its values replace those of `base`; where both are mappings, they are merged likewise.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def override(config: Config, *layers: Mapping[str, Any], section: str = "") -> Config:
    """Copy a config with some settings replaced, and validate the copy.

    Args:
        config: All settings. They, not the defaults of their class, are what `layers` are merged into.
        *layers: Nested values; a later layer is merged over those before it (see `merge`).
        section: See `build_config`.

    Raises:
        ConfigError: See `build_config`.
    """
    settings = config.model_dump()
    for layer in layers:
        settings = merge(settings, layer)
    return build_config(type(config), settings, section=section)


def _fields(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the settings in the section at `path`; empty if there is no such section."""
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        kind = field.annotation
    return list(kind.model_fields)


def read_assignment(assignment: str, section: str) -> Settings:
    """Parse the value of a `--set` option: `purer.learner.inner_steps=5` -> `{"learner": {"inner_steps": 5}}`.

    Args:
        assignment: `SECTION.NAME=VALUE`, with VALUE in YAML.
        section: Name of the method, or of another section, that is to be set.

    Raises:
        UsageError: If `assignment` has another form, or is for another section.
        ConfigError: If the value is not YAML.
    """
    name, equals, text = assignment.partition("=")
    owner, *path = name.strip().split(".")
    if not equals or not path or not all((owner, *path)):
        raise UsageError(f"expected --set {section}.NAME=VALUE, found {assignment!r}")
    if owner != section:
        raise UsageError(
            f"--set {assignment}: this run is for {section}, not {owner}; write {section}.{'.'.join(path)}=..."
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not YAML ({error})") from error
    for part in reversed(path):
        value = {part: value}
    return dict(value)
