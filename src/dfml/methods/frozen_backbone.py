"""`frozen_backbone`: ridge regression on the features of pre-trained weights that the user has; a baseline.

It says what a downloaded network gives without any zoo: `frozen_backbone:FOLDER` with a folder of timm's format, such
as a snapshot of a model of the Hugging Face Hub.
"""

from __future__ import annotations

from typing import ClassVar

from dfml.learners.embedding import HeadFit
from dfml.learners.zoo_embedding import Representation
from dfml.methods.zoo_embedding import ZooEmbedding, ZooEmbeddingConfig
from dfml.training.loop import TrainingConfig


class FrozenBackboneConfig(ZooEmbeddingConfig):
    """Settings of `frozen_backbone`."""

    representation: Representation = "features"
    """Part of an image's embedding that a network contributes: its unit-norm `features`, the input of its head; or its
    class `probabilities`, these `centred` at temperature 2, or its `logits`."""
    fit: HeadFit = "ridge"
    """Classifier head of a few-shot task. `ridge`: ridge regression. `mean`: nearest class mean by cosine
    similarity."""


class FrozenBackbone(ZooEmbedding):
    """Features of pre-trained weights under a linear head, a baseline of Tian et al. (ECCV 2020, arXiv 2003.11539).

    The folder is read like a zoo: it is one model, or holds several, whose features are put side by side.
    """

    name: ClassVar[str] = "frozen_backbone"
    config_type: ClassVar[type[TrainingConfig]] = FrozenBackboneConfig
    config: FrozenBackboneConfig
