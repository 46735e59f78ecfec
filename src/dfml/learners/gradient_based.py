"""`GradientLearner`: the base of MAML, ANIL and ProtoNet, with the outer loss of an episode as a pure function.

MAML and ANIL adapt in an inner loop of gradient steps. ProtoNet has none: it computes its head in closed form.

`episode_loss` is a function of (parameters, running batch-norm statistics, episode). A training loop differentiates it
with respect to the parameters or to the images of the episode.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.learners.base import Calibration, MetaLearner, ProtocolName
from dfml.learners.calibration_config import ICFILConfig
from dfml.learners.classifier import FewShotClassifier, read_preprocessing, select_prefix
from dfml.learners.episode import Episode
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics, architecture_of
from dfml.learners.network_classifier import NetworkClassifier
from dfml.learners.saving import require_tensors
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing

# Default of `test_inner_steps` under the protocol `strict` (query images normalised with support statistics, not their
# own), chosen on the validation classes of CIFAR-FS.
_STRICT_STEPS = 10


class LearnerConfig(FrozenSettings):
    """Backbone and inner loop of a MAML, ANIL or ProtoNet learner."""

    kind: Literal["maml", "anil", "protonet"] = "maml"
    """Kind of learner: `maml` adapts all weights, `anil` adapts the head, `protonet` computes one prototype per
    class."""
    backbone: str = "conv4"
    """Name of the backbone: one of dfml's (conv4, fewshot_resnet10, ...) or any network in timm's registry."""
    backbone_arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the backbone, such as `{channels: 64}`."""
    head_start: Literal["random", "zero"] = "zero"
    """Initial weights of the head, before meta-training; `protonet` ignores them. `random`: uniform within
    1 / sqrt(features) of 0. `zero`: after one inner step, with equally many support images per class, a class's logit
    is, up to scale, the inner product of the feature with (class mean - mean of all classes)."""
    inner_steps: PositiveInt = 1
    """Number of gradient steps on the support set in training; `protonet`, which has no inner loop, ignores it. The
    released code of PURER takes 1 in its scripts and 5 by default."""
    test_inner_steps: PositiveInt | None = None
    """Number of gradient steps on the support set at test time; `protonet` ignores it. None: as many as in training
    under the protocol `paper`; 10 under `strict` (or more, if training takes more), which regains what inductive
    batch-norm costs (docs/results/protocol.md). The released code of PURER takes 1 in its scripts and 10 by default."""
    inner_lr: PositiveFloat = 0.01
    """Learning rate of the inner loop; `protonet` ignores it."""
    second_order: bool = True
    """Differentiate through the inner loop; false gives first-order MAML. `protonet` ignores it."""
    statistics_shrinkage: float = Field(default=0.0, ge=0.0, le=1.0)
    """Interpolation of the batch-norm statistics that normalise query images, from those of the support set (0) to the
    running ones, an EMA over the support sets of training (1); protocol `strict` only."""
    calibration: ICFILConfig | None = None
    """Settings of ICFIL, which fine-tunes every adapted classifier and is saved with the learner; None: no
    calibration."""


@dataclass(frozen=True)
class EpisodeOutcome:
    """Result of one training episode.

    Attributes:
        loss: Mean cross-entropy on the query set, in nats; differentiable.
        accuracy: Accuracy on the query set, a fraction.
        statistics: Batch-norm statistics of the last pass over the support set, detached.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    statistics: Statistics


class GradientLearner(MetaLearner):
    """Backbone with a linear head, whose initial weights are meta-learned and adapted to every support set.

    Args:
        config: Backbone and inner loop.
        preprocessing: Image size, mean and standard deviation of the network's input.
        way: Number of rows of the head, which is the number of classes per training episode; default 5. `adapt` accepts
            any number of classes; if it differs from `way`, the initial weights of every class are the mean row of
            the head.
        protocol: Batch-norm rule of training and adaptation; see `MetaLearner`.
        seed: Seed of the initial weights.
        name: Name in tables; None: the learner's kind.

    Attributes:
        parameters: Meta-learned initial weights of backbone and head.
        running_statistics: Running batch-norm statistics: an EMA over the support sets of training; see
            `LearnerConfig.statistics_shrinkage`.

    Raises:
        UsageError: If the backbone is unknown, or cannot take images of this size.
    """

    def __init__(
        self,
        config: LearnerConfig,
        preprocessing: Preprocessing,
        *,
        way: int = 5,
        protocol: ProtocolName = "strict",
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.way = way
        self.protocol: ProtocolName = protocol
        self.name = name or self.kind
        self.architecture = architecture_of(config.backbone, config.backbone_arguments, preprocessing.size)
        self.network = EpisodeNetwork(config.backbone, self.architecture["arguments"], seeds.integer(seed, "backbone"))
        self.parameters = self.network.initial() | self._initial_head(seed)
        self.running_statistics = self.network.neutral_statistics()

    def _initial_head(self, seed: int) -> Parameters:
        width = self.network.width(self.preprocessing.size)
        if self.config.head_start == "zero":
            return {"head.weight": torch.zeros(self.way, width), "head.bias": torch.zeros(self.way)}
        bound = width**-0.5
        uniform = torch.rand(self.way, width, generator=seeds.generator(seed, "head"))
        return {"head.weight": (2.0 * uniform - 1.0) * bound, "head.bias": torch.zeros(self.way)}

    @abstractmethod
    def inner_loop(
        self,
        parameters: Parameters,
        inputs: Float[Tensor, "support 3 size size"],
        labels: Int64[Tensor, "support"],
        *,
        way: int,
        steps: int,
        second_order: bool,
    ) -> tuple[Parameters, Statistics]:
        """Adapt the parameters to a support set, by gradient steps or in closed form (ProtoNet).

        Args:
            parameters: Initial weights.
            inputs: Normalised support images.
            labels: Labels of the support images, from 0 to `way - 1`.
            way: Number of classes.
            steps: Number of gradient steps; a head in closed form ignores it.
            second_order: Keep the graph of the inner loop, also to the support images.

        Returns:
            Adapted parameters with a head of `way` rows, and the batch-norm statistics of the last pass over the
            support set. The graph reaches from the adapted parameters back to `parameters`. With `second_order` it
            passes through the gradients of the steps and reaches the support images too, and the statistics are
            attached to it. Without `second_order`, the method may also be called under `torch.no_grad()`: inner steps
            enable gradients themselves, and the result has no graph.
        """

    def refit_head(
        self,
        parameters: Parameters,
        statistics: Statistics,
        inputs: Float[Tensor, "support 3 size size"],
        labels: Int64[Tensor, "support"],
    ) -> tuple[Parameters, Statistics]:
        """Recompute the head for a changed backbone; called by `ICFIL.calibrate`.

        Only a closed-form head (ProtoNet) must be recomputed; one that gradient steps adapted stays as it is.

        Args:
            parameters: Adapted parameters with a changed backbone.
            statistics: Batch-norm statistics of the support set, from the last pass over it.
            inputs: Normalised support images.
            labels: Labels of the support images.

        Returns:
            Parameters, and the statistics that belong to them; unchanged unless a subclass overrides this method.
        """
        return parameters, statistics

    @property
    def test_inner_steps(self) -> int:
        """Number of gradient steps of `adapt`; see `LearnerConfig.test_inner_steps`."""
        default = self.config.inner_steps if self.protocol == "paper" else max(self.config.inner_steps, _STRICT_STEPS)
        return self.config.test_inner_steps or default

    def query_statistics(self, support_statistics: Statistics, running_statistics: Statistics) -> Statistics | None:
        """Compute the batch-norm statistics that normalise query images under the learner's protocol.

        Args:
            support_statistics: Statistics of the support set.
            running_statistics: Running (EMA) statistics, towards which those of the support set are interpolated.

        Returns:
            None under the protocol `paper`: query images are normalised with their own statistics. Otherwise support
            statistics, interpolated towards `running_statistics` by `LearnerConfig.statistics_shrinkage`.
        """
        if self.protocol == "paper":
            return None
        shrinkage = self.config.statistics_shrinkage
        if shrinkage == 0.0:
            return support_statistics
        return {
            name: torch.lerp(value, running_statistics[name], shrinkage) for name, value in support_statistics.items()
        }

    def episode_loss(
        self,
        parameters: Parameters,
        running_statistics: Statistics,
        episode: Episode,
        *,
        second_order: bool | None = None,
    ) -> EpisodeOutcome:
        """Compute the outer loss of one episode: adapt to the support set, then cross-entropy of the query set.

        Args:
            parameters: Initial weights, which are adapted; the loss is differentiable in them.
            running_statistics: Running (EMA) batch-norm statistics; see `query_statistics`.
            episode: Task of `way` classes, with images of the learner's size.
            second_order: Differentiate through the inner loop, also to the support images; None: as set in
                `LearnerConfig.second_order`.
        """
        adapted, support_statistics = self.inner_loop(
            parameters,
            self.preprocessing.normalise(episode.support_images),
            episode.support_labels,
            way=self.way,
            steps=self.config.inner_steps,
            second_order=self.config.second_order if second_order is None else second_order,
        )
        inputs = self.preprocessing.normalise(episode.query_images)
        features, _ = self.network.features(
            adapted, inputs, self.query_statistics(support_statistics, running_statistics)
        )
        logits = functional.linear(features, adapted["head.weight"], adapted["head.bias"])
        loss = functional.cross_entropy(logits, episode.query_labels)
        accuracy = (logits.detach().argmax(dim=1) == episode.query_labels).float().mean()
        return EpisodeOutcome(loss, accuracy, {name: value.detach() for name, value in support_statistics.items()})

    @torch.no_grad()
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """See `MetaLearner.fit_support`. Inner steps enable gradients themselves, and free the graph of each step."""
        adapted, support_statistics = self.inner_loop(
            self.parameters,
            self.preprocessing.normalise(images),
            labels,
            way=len(names),
            steps=self.test_inner_steps,
            second_order=False,
        )
        return self.classifier(adapted, support_statistics, names)

    def classifier(
        self, adapted: Parameters, support_statistics: Statistics, names: tuple[str, ...]
    ) -> NetworkClassifier:
        """Create the classifier of adapted weights.

        Args:
            adapted: Weights of backbone and head; the head has one row per name.
            support_statistics: Batch-norm statistics of the support set.
            names: Class names.
        """
        return NetworkClassifier(
            self.network,
            self.architecture,
            {name: value.detach() for name, value in adapted.items()},
            self.query_statistics(support_statistics, self.running_statistics),
            names,
            self.preprocessing,
        )

    def to(self, device: torch.device) -> GradientLearner:
        """See `MetaLearner.to`."""
        self.device = device
        self.parameters = {name: value.to(device) for name, value in self.parameters.items()}
        self.running_statistics = {name: value.to(device) for name, value in self.running_statistics.items()}
        return self

    @property
    def calibration(self) -> Calibration | None:
        """See `MetaLearner.calibration`: `LearnerConfig.calibration`."""
        if self.config.calibration is None:
            return None
        from dfml.learners.calibration import ICFIL

        return ICFIL(self.config.calibration)

    def get_config(self) -> dict[str, Any]:
        """See `MetaLearner.get_config`."""
        return {**super().get_config(), "learner": self.config.model_dump(mode="json")}

    def state_dict(self) -> dict[str, Tensor]:
        """See `MetaLearner.state_dict`."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        return tensors | {f"stored.{name}": value for name, value in self.running_statistics.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> GradientLearner:
        """See `MetaLearner.from_config`."""
        learner = cls(
            LearnerConfig(**config["learner"]),
            read_preprocessing(config["preprocessing"]),
            way=config["way"],
            protocol=config["protocol"],
            name=config["name"],
        )
        # Every method saves `config["way"]` rows. Weights assigned to `parameters` in Python may have another number;
        # `head_for` makes such a head fit a task.
        head = frozenset({"parameters.head.weight", "parameters.head.bias"})
        require_tensors(state_dict, learner.state_dict(), any_length=head)
        learner.parameters = select_prefix(state_dict, "parameters.")
        learner.running_statistics = select_prefix(state_dict, "stored.")
        return learner


def head_for(parameters: Parameters, way: int) -> Parameters:
    """Return the parameters with a head of `way` rows.

    If `way` differs from the number of rows of the head, every row of the new one is the mean row of the old one.
    """
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    if len(weight) == way:
        return parameters
    rows = {"head.weight": weight.mean(0).expand(way, -1), "head.bias": bias.mean(0).expand(way)}
    return {**parameters, **rows}
