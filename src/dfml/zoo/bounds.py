"""Bounds on what a member's configuration may ask for, so that a hostile or damaged one fails within seconds.

A configuration can name a network of a million layers. Its numbers are checked before anything is built, and the
modules are counted while the network is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from dfml.errors import ZooMemberError

MAX_VALUE = 300_000
"""Largest absolute value of an integer in the arguments of an architecture."""

MAX_VALUES = 100_000
"""Largest number of values in the arguments of an architecture, nested ones included."""

MAX_MODULES = 20_000
"""Largest number of modules of a network; a ConvNeXt-XL has about 500, a transformer of 1,000 blocks about 15,000."""

_MAX_NESTING = 16


class TooManyModulesError(Exception):
    """A network has more modules than `MAX_MODULES`."""


def check_arguments(member: Path, arguments: Any, where: str) -> None:
    """Check the numbers in the arguments of an architecture.

    Args:
        member: The member's folder or file, for messages.
        arguments: Plain values as JSON has them, nested in any way.
        where: Where the arguments stand, for messages: "`model_args` in config.json".

    Raises:
        ZooMemberError: If an integer is beyond `MAX_VALUE`, a number is not finite, there are more values than
            `MAX_VALUES`, or they are nested too deeply.
    """
    pending, values = [(arguments, where, 0)], 0
    while pending:
        value, name, depth = pending.pop()
        values += 1
        reason = None
        if depth > _MAX_NESTING or values > MAX_VALUES:
            reason = f"expected at most {MAX_VALUES} values, nested at most {_MAX_NESTING} deep, in {where}, found more"
        elif isinstance(value, int) and abs(value) > MAX_VALUE:
            reason = f"expected integers of at most {MAX_VALUE} in {where}, found {_short(value)} as {name}"
        elif isinstance(value, float) and not math.isfinite(value):
            reason = f"expected finite numbers in {where}, found {value} as {name}"
        if reason:
            raise ZooMemberError(member, reason, "correct it, or remove the member")
        if isinstance(value, dict):
            pending += [(entry, f"`{_short(key)}`", depth + 1) for key, entry in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(entry, name, depth + 1) for entry in value]


@contextmanager
def bounded_modules() -> Iterator[None]:
    """Context for building a network: it ends with an error at the first module beyond `MAX_MODULES`.

    Raises:
        TooManyModulesError: If more modules are registered within the context.
    """
    registered = 0

    def count(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal registered
        registered += 1
        if registered > MAX_MODULES:
            raise TooManyModulesError(f"the network has more than {MAX_MODULES} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}..."
