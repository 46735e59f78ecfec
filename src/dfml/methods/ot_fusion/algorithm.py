"""`ot_fusion`: mean of the members' weights after their channels are matched by optimal transport, then adaptation.

A plain mean fails because networks that were trained independently have similar features in different channels. Here
the channels of every member are first permuted to match those of the first member, which does not change its function
(Singh and Jaggi, "Model Fusion via Optimal Transport", NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from dfml import seeds
from dfml.drawn_images import dead_leaves
from dfml.errors import ZooError
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import average_members, member_backbones
from dfml.methods.base import Method
from dfml.methods.ot_fusion.transport import (
    MATCHABLE,
    ChannelFeatures,
    Permutations,
    channel_activations,
    channel_layers,
    import_solver,
    match_by_activations,
    match_by_weights,
    permute_channels,
)
from dfml.methods.untrained import AdaptationConfig, FinishedRun, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.zoo import Zoo

Metric = Literal["weights", "activations"]
"""Features that channels are matched by: their incoming weights, or their activations on the same images."""


class OTFusionConfig(AdaptationConfig):
    """Settings of `ot_fusion`."""

    metric: Metric = "weights"
    """Features that channels are matched by: `weights`, their incoming weights, or `activations` on synthetic images.
    On the validation classes of CIFAR-FS (5-shot, two zoos of 100 members), `weights` is three points better."""
    images: PositiveInt = 64
    """Number of dead leaves images for the metric `activations`."""


class OTFusion(Method):
    """Mean of the members' weights after channel matching (Singh and Jaggi, NeurIPS 2020); one architecture only.

    The inputs of the heads are permuted as well. The rows of the heads are not matched, because members have different
    classes, and adaptation trains the rows again.
    """

    name: ClassVar[str] = "ot_fusion"
    config_type: ClassVar[type[TrainingConfig]] = OTFusionConfig
    config: OTFusionConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        import_solver()  # before anything is computed
        learner = untrained_learner(self.config, zoo, device, self.name)
        require_fusible(zoo, learner)
        layers, match = channel_layers(zoo.classifier(0).network), self._matcher(zoo)
        matched = [
            PretrainedClassifier(
                permute_channels(member.network, layers, match(member)),
                member.labels,
                member.preprocessing,
                member.source,
            )
            for member in zoo.classifiers()
        ]
        learner.parameters = average_members(Zoo.of(matched), learner)
        return FinishedRun(learner)

    def _matcher(self, zoo: Zoo) -> Callable[[PretrainedClassifier], Permutations]:
        """Function that returns the permutations that match a member's channels to those of the first member."""
        reference = zoo.classifier(0)
        layers = channel_layers(reference.network)
        if self.config.metric == "weights":
            return lambda member: match_by_weights(member.network, reference.network, layers)
        images = self._images(zoo.preprocessing(self.config.img_size)).to(zoo.device)

        def activations(member: PretrainedClassifier) -> ChannelFeatures:
            return channel_activations(member.network, layers, member.preprocessing.normalise(images))

        reference_activations = activations(reference)
        return lambda member: match_by_activations(activations(member), reference_activations)

    def _images(self, preprocessing: Preprocessing) -> Float[Tensor, "images 3 size size"]:
        """Dead leaves images in [0, 1], of one size for all members: feature maps are compared pixel by pixel."""
        generator = seeds.generator(self.config.seed, "ot_fusion")
        return preprocessing.denormalise(dead_leaves(self.config.images, preprocessing.size, generator)).clamp(0.0, 1.0)


def require_fusible(zoo: Zoo, learner: GradientLearner) -> None:
    """Check that the channels of all members can be matched and their weights averaged.

    Raises:
        ZooError: If the layers of a member's architecture are not known, its weights are not finite, or it does not
            have the learner's architecture.
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
