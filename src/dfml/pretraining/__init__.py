"""Labelled images -> a zoo of trained classifiers: simulates the models that other people would bring."""

from dfml.pretraining.build import BuiltMember, build_zoo
from dfml.pretraining.recipes import PAPER, RECIPES, STRONG, Optimisation, Recipe, recipe_by_name
from dfml.pretraining.train import TrainedClassifier, train_classifier

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
