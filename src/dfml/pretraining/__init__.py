"""Labelled images -> a zoo of trained classifiers, which stands in for pre-trained models from other sources.

The names below are imported when they are first used, so that `dfml.pretraining.workers` imports neither torch nor
timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfml.late_imports import late_names

if TYPE_CHECKING:
    from dfml.pretraining.build import BuiltMember, build_zoo
    from dfml.pretraining.classifier_training import TrainedClassifier, train_classifier
    from dfml.pretraining.recipes import PAPER, RECIPES, STRONG, Optimisation, Recipe, recipe_by_name

_HOMES = {
    "dfml.pretraining.build": ("BuiltMember", "build_zoo"),
    "dfml.pretraining.recipes": ("PAPER", "RECIPES", "STRONG", "Optimisation", "Recipe", "recipe_by_name"),
    "dfml.pretraining.classifier_training": ("TrainedClassifier", "train_classifier"),
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

__getattr__ = late_names(__name__, _HOMES)
