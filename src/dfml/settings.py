"""Typed settings: their base class, validation with one clear error, merging of layers, and `--set` assignments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dfml.errors import ConfigError, UsageError

Config = TypeVar("Config", bound=BaseModel)

Settings = dict[str, Any]
"""Nested plain values, as a YAML file holds them."""


class FrozenSettings(BaseModel):
    """Base class of all settings: immutable, without unknown names, NaN or infinity.

    The docstring below a field is its description, which `dfml train --show-config` prints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def build_config(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """Validate settings.

    Args:
        kind: Class of the config.
        settings: Nested values; defaults of `kind` replace missing ones.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value; the message names the first one, the value that was
            found and what is possible.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(_fields(kind, first["loc"][:-1]))
        reason = f"unknown setting; known are {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"setting {name!r}: {reason} (found {first['input']!r})") from error


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


def override(config: Config, *layers: Mapping[str, Any]) -> Config:
    """Copy a config with some settings replaced, and validate the copy.

    Args:
        config: All settings. They, not the defaults of their class, are what `layers` are merged into.
        *layers: Nested values; a later layer is merged over those before it (see `merge`).

    Raises:
        ConfigError: See `build_config`.
    """
    settings = config.model_dump()
    for layer in layers:
        settings = merge(settings, layer)
    return build_config(type(config), settings)


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
