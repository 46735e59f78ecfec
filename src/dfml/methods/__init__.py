"""Methods that turn a zoo into a learner; one package or file per method.

The catalogue, which imports all of them, is imported when it is first used: a saved learner is opened without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfml.methods.catalogue import METHODS, find_method, method_names

__all__ = ["METHODS", "find_method", "method_names"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dfml.methods' has no attribute {name!r}")
    value = getattr(import_module("dfml.methods.catalogue"), name)
    globals()[name] = value
    return value
