"""Methods that turn a zoo into a learner; one package or file per method.

The catalogue, which imports all of them, is imported when it is first used: a saved learner is opened without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfml.late_imports import late_names

if TYPE_CHECKING:
    from dfml.methods.catalogue import METHODS, find_method, method_names

__all__ = ["METHODS", "find_method", "method_names"]

__getattr__ = late_names(__name__, {"dfml.methods.catalogue": __all__})
