"""Typed settings: their base class, validation with one clear error, merging of layers, and `--set` assignments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dfml.errors import ConfigError, UsageError

Config = TypeVar("Config", bound=BaseModel)

Settings = dict[str, Any]
"""Nested plain values, as YAML holds them."""


class FrozenSettings(BaseModel):
    """Base of all settings: immutable, unknown names are errors, and the docstring below a field explains it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def build_config(kind: type[Config], settings: dict[str, Any]) -> Config:
    """A validated config.

    Raises:
        ConfigError: With the name of the first setting that is unknown or has a wrong value, and what would be right.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(_fields(kind, first["loc"][:-1]))
        reason = f"unknown setting; known are {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"setting {name!r}: {reason} (found {first['input']!r})") from error


def merge(base: Settings, over: Mapping[str, Any]) -> Settings:
    """`over` on top of `base`; where both hold mappings, these are merged likewise."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _fields(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Settings that a config knows, at a place within it."""
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        kind = field.annotation
    return list(kind.model_fields)


def read_assignment(assignment: str, method: str) -> Settings:
    """`purer.learner.inner_steps=5` -> `{"learner": {"inner_steps": 5}}`.

    Raises:
        UsageError: If it has another form, or is for another method.
        ConfigError: If the value is not YAML.
    """
    name, equals, text = assignment.partition("=")
    owner, *path = name.strip().split(".")
    if not equals or not path or not all(path):
        raise UsageError(f"expected --set {method}.NAME=VALUE, found {assignment!r}")
    if owner != method:
        raise UsageError(
            f"--set {assignment}: this run is for {method}, not {owner}; write {method}.{'.'.join(path)}=..."
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not YAML ({error})") from error
    for part in reversed(path):
        value = {part: value}
    return dict(value)
