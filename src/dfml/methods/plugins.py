"""Methods from outside of dfml: `MODULE:CLASS` of a Python file, or a name that an installed package declares.

A module is imported only if the user writes `MODULE:CLASS`. No file of a run or a learner makes dfml import a module: a
run's `config.yaml` contains the method's own name, and a learner's folder contains its kind.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeGuard

from dfml.errors import ConfigError, UsageError
from dfml.methods.base import Method
from dfml.registries import describe_entry_point, error_place, load_entry_point
from dfml.settings import build_config
from dfml.training.loop import TrainingConfig

GROUP = "dfml.methods"
"""Group of the entry points by which packages declare methods: name -> `module:Class`."""

RUN_ENTRIES = ("format_version", "method", "zoo", "class_identity", "members", "left_out", "classes", "start_from")
"""Entries of a run's `config.yaml` besides the settings of its method, which no method may be called."""

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_path(name: str) -> bool:
    """Whether a name has the form `MODULE:CLASS`."""
    return _PATH.fullmatch(name) is not None


def declared() -> tuple[str, ...]:
    """Names of the methods that installed packages declare; none of their modules is imported."""
    return tuple(sorted(entry_points(group=GROUP).names))


def import_method(path: str) -> type[Method]:
    """Import a method.

    The current folder is searched last, so that no file in it replaces an installed module.

    Args:
        path: `MODULE:CLASS`.

    Raises:
        UsageError: If there is no such module or class, the module raises an error, or the class is not a usable
            method.
    """
    module, _, name = path.partition(":")
    if module.endswith(".py"):
        raise UsageError(f"expected MODULE:CLASS, found {path!r}; write {module.removesuffix('.py')}:{name}")
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {module!r}: expected {module.replace('.', '/')}.py in {here}, or an installed "
                "package; run dfml in the folder of the file"
            ) from error
        raise UsageError(f"the module {module} cannot be imported: {error_place(error)}") from error
    if not hasattr(found, name):
        methods = [key for key, value in vars(found).items() if _is_method(value) and value.__module__ == module]
        raise UsageError(
            f"{found.__file__ or module} has no class {name!r}; its methods are: {', '.join(methods) or 'none'}"
        )
    return _vet(getattr(found, name), path)


def load_declared(name: str) -> type[Method]:
    """Import the method that an installed package declares.

    Args:
        name: Name of the method, one of `declared`.

    Raises:
        UsageError: If several packages declare the name, the module raises an error, or the declared object is not a
            usable method of that name.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    kind = _vet(load_entry_point("method", points), points[0].value)
    if kind.name != name:
        raise UsageError(
            f"{describe_entry_point(points[0])} is declared as {name!r}, but its name is {kind.name!r}; make both "
            "the same"
        )
    return kind


def _vet(found: object, path: str) -> type[Method]:
    """Return the object if it is a class that can be used as a method.

    Raises:
        UsageError: If it cannot be used; says what is missing.
    """
    if not _is_method(found):
        raise UsageError(f"{path} is not a method: expected a subclass of dfml.Method, found {found!r}")
    name, config_type = getattr(found, "name", None), getattr(found, "config_type", None)
    if not isinstance(name, str) or not name.isidentifier() or name in RUN_ENTRIES:
        raise UsageError(
            f"{path} needs a class attribute `name`: letters, digits and _, and not one of "
            f"{', '.join(RUN_ENTRIES)}; found {name!r}"
        )
    if not isinstance(config_type, type) or not issubclass(config_type, TrainingConfig):
        raise UsageError(
            f"{path} needs a class attribute `config_type`: a subclass of dfml.training.loop.TrainingConfig; "
            f"found {config_type!r}"
        )
    if inspect.isabstract(found):
        raise UsageError(f"{path} does not define {', '.join(sorted(found.__abstractmethods__))}; see dfml.Method")
    try:
        build_config(config_type, {})
    except ConfigError as error:
        raise UsageError(f"{path}: every setting needs a valid default: {error}") from error
    return found


def _is_method(value: Any) -> TypeGuard[type[Method]]:
    return isinstance(value, type) and issubclass(value, Method) and value is not Method
