"""`ot_fusion`: the members' channels matched by optimal transport, then the mean of their weights, then adaptation.

Averaging fails because networks that were trained apart keep alike features in different channels. Here every member's
channels are first renumbered as those of the first member, which changes nothing of what it computes (Singh and Jaggi,
"Model Fusion via Optimal Transport", NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.errors import ZooError
from dfml.inversion.initialisation import dead_leaves
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import average_members, member_backbones
from dfml.methods.base import Method
from dfml.methods.ot_fusion.transport import (
    MATCHABLE,
    Orders,
    Rows,
    channel_activations,
    channel_layers,
    match_by_activations,
    match_by_weights,
    renumbered,
)
from dfml.methods.untrained import AdaptationConfig, Finished, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.zoo import Zoo

Metric = Literal["weights", "activations"]
"""What makes two channels alike: their incoming weights, or their answers to the same images."""


class OTFusionConfig(AdaptationConfig):
    """Settings of `ot_fusion`."""

    metric: Metric = "weights"
    """What channels are matched by: `weights`, the incoming ones, or `activations` on images that nobody recorded.
    Chosen on CIFAR-FS val, where weights are three points better (5-shot, two zoos of 100 members)."""
    images: PositiveInt = 64
    """Dead leaves on which `activations` are compared."""


class OTFusion(Method):
    """Mean of the members' weights once their channels are matched; one architecture only.

    Heads take part with their inputs in the matched order. Their rows are not matched: members answer different
    questions with the same output numbers, and adaptation learns the rows anew.
    """

    name: ClassVar[str] = "ot_fusion"
    config_type: ClassVar[type[TrainingConfig]] = OTFusionConfig
    config: OTFusionConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        learner = untrained_learner(self.config, zoo, device, self.name)
        require_fusible(zoo, learner)
        layers, match = channel_layers(zoo.classifier(0).network), self._matcher(zoo)
        matched = [
            PretrainedClassifier(
                renumbered(member.network, layers, match(member)), member.labels, member.preprocessing, member.source
            )
            for member in zoo.classifiers()
        ]
        learner.parameters = average_members(Zoo.of(matched), learner)
        return Finished(learner)

    def _matcher(self, zoo: Zoo) -> Callable[[PretrainedClassifier], Orders]:
        """A member -> the order in which its channels are most like the first member's."""
        reference = zoo.classifier(0)
        layers = channel_layers(reference.network)
        if self.config.metric == "weights":
            return lambda member: match_by_weights(member.network, reference.network, layers)
        images = self._images(zoo.preprocessing()).to(zoo.device)

        def seen(member: PretrainedClassifier) -> Rows:
            return channel_activations(member.network, layers, member.preprocessing.normalise(images))

        ours = seen(reference)
        return lambda member: match_by_activations(seen(member), ours)

    def _images(self, preprocessing: Preprocessing) -> Float[Tensor, "images 3 size size"]:
        """What members are shown, of one size for all: their maps are compared pixel by pixel."""
        generator = seeds.generator(self.config.seed, "ot_fusion")
        return preprocessing.denormalise(dead_leaves(self.config.images, preprocessing.size, generator)).clamp(0.0, 1.0)


def require_fusible(zoo: Zoo, learner: GradientLearner) -> None:
    """Make sure that the members can be matched and averaged, before the work begins.

    Raises:
        ZooError: If it is not known how the layers of a member's architecture hang together, if its weights are not
            finite, or if it is not of the learner's architecture.
    """
    for index, member in enumerate(zoo.classifiers()):
        if not isinstance(member.network, MATCHABLE):
            raise ZooError(
                f"ot_fusion can match the channels of conv4 and few-shot ResNets, but {zoo.name(index)} is a "
                f"{type(member.network).__name__}; use --method zoo_embedding, which takes any classifier"
            )
        if not all(bool(value.isfinite().all()) for value in member.network.parameters()):
            raise ZooError(f"ot_fusion needs finite weights, but {zoo.name(index)} has others; leave it out of the zoo")
    member_backbones(zoo, learner, "ot_fusion")
