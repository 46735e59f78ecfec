"""Labelled images -> a zoo of trained classifiers, which stands in for pre-trained models from other sources.

The names below are imported when they are first used, so that `dfml.pretraining.workers` imports neither torch nor
timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfml.pretraining.build import BuiltMember, build_zoo
    from dfml.pretraining.classifier_training import TrainedClassifier, train_classifier
    from dfml.pretraining.recipes import PAPER, RECIPES, STRONG, Optimisation, Recipe, recipe_by_name

_HOMES = {
    "build": ("BuiltMember", "build_zoo"),
    "recipes": ("PAPER", "RECIPES", "STRONG", "Optimisation", "Recipe", "recipe_by_name"),
    "classifier_training": ("TrainedClassifier", "train_classifier"),
}

__all__ = [
    "PAPER",
    "RECIPES",
    "STRONG",
    "BuiltMember",
    "Optimisation",
    "Recipe",
    "TrainedClassifier",
    "build_zoo",
    "recipe_by_name",
    "train_classifier",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
