"""A method from outside the package, for tests of what a page takes from a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dfml.learners import LearnerConfig, MetaLearner, create_learner
from dfml.methods.base import Method
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.zoo import Zoo


class OutsideConfig(TrainingConfig):
    """Settings of the method."""

    iterations: int = 4
    brightness: float = 0.5
    """Mean of the images that the run keeps."""


class OutsideMethod(Method):
    """Trains nothing, but has metrics of every kind and images of one class."""

    name: ClassVar[str] = "outside"
    config_type: ClassVar[type[TrainingConfig]] = OutsideConfig
    config: OutsideConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        return OutsideRun(self.config, zoo)


class OutsideRun(TrainingRun):
    """Metrics that only this method has."""

    images_caption = "Images of nothing, all of one brightness."

    def __init__(self, config: OutsideConfig, zoo: Zoo) -> None:
        self.config = config
        self.iterations = config.iterations
        self._learner = create_learner(
            LearnerConfig(), zoo.preprocessing(), way=config.way, protocol=config.protocol, name=OutsideMethod.name
        )

    def step(self, iteration: int) -> Mapping[str, float]:
        metrics = {"entropy": 2.0 / iteration, "agreement": 0.25 * iteration, "ranking_loss": iteration - 2.0}
        if iteration == 3:
            metrics |= {"entropy_before": 0.5, "entropy_after": 1.5}
        return metrics | {"hidden": 1.0, "sorting_seconds": 0.0}

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        return {
            "entropy": MetricDescription("mean entropy", "Entropy of the predictions, in nats.", panel="entropy"),
            "entropy_before": MetricDescription(
                "shuffle", "Each arrow is one shuffle.", panel="entropy", arrow_to="entropy_after"
            ),
            "agreement": MetricDescription("agreement", "Members that agree.", percent=True),
            "never_there": MetricDescription("absent", "Not in any row."),
        }

    def images(self, class_index: int, count: int) -> Tensor:
        size = 8
        return torch.full((min(count, 2) if class_index == 1 else 0, 3, size, size), self.config.brightness)

    def learner(self) -> MetaLearner:
        return self._learner
