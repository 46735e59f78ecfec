"""What MAML, ANIL and ProtoNet share: one network, an episode's loss as a pure function, and adaptation.

Everything is a function of (parameters, stored statistics, episode). A training loop differentiates `episode_loss` with
respect to the parameters, or to the episode's images.
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
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.learners.classifier import FewShotClassifier, NetworkClassifier, read_preprocessing, strip
from dfml.learners.episode import Episode
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics, architecture_of
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing

_STRICT_STEPS = 10  # chosen on CIFAR-FS val


class LearnerConfig(FrozenSettings):
    """How a learner is built and adapts."""

    kind: Literal["maml", "anil", "protonet"] = "maml"
    """What adapts: all weights (MAML), the head (ANIL), or nothing but class means (ProtoNet)."""
    backbone: str = "conv4"
    """A name of `dfml.backbones.create_backbone`."""
    backbone_arguments: dict[str, Any] = Field(default_factory=dict)
    """Of the backbone, such as `{channels: 64}`."""
    head_start: Literal["random", "zero"] = "zero"
    """The head before training. From zero, the first inner step alone makes a nearest-mean classifier of the
    features."""
    inner_steps: PositiveInt = 1
    """Gradient steps on the support set in training (papers 1.8: 1 in PURER's scripts, 5 by default)."""
    test_inner_steps: PositiveInt | None = None
    """The same in `adapt` (papers 1.8: 1 in PURER's scripts, 10 by default). None: under `paper` as many as in
    training; under `strict` ten, which win back what inductive batch-norm costs (docs/results/first-light.md)."""
    inner_lr: PositiveFloat = 0.01
    """Of the inner loop."""
    second_order: bool = True
    """Differentiate through the inner loop; False: first-order MAML."""
    statistics_shrinkage: float = Field(default=0.0, ge=0.0, le=1.0)
    """`strict` only: how far the support set's batch-norm statistics are drawn towards the meta-learned ones."""


@dataclass(frozen=True)
class EpisodeOutcome:
    """Of one episode.

    Attributes:
        loss: Cross-entropy on the query set; differentiable.
        accuracy: On the query set.
        statistics: Batch-norm statistics of the last pass over the support set, detached.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    statistics: Statistics


class GradientLearner(MetaLearner):
    """A network with meta-learned weights.

    Args:
        config: See `LearnerConfig`.
        preprocessing: Of the network's input.
        way: Rows of the head that is learned.
        protocol: Which batch-norm rule training and adaptation follow; see `MetaLearner`.
        seed: Of the initial weights.
        name: What it is called in tables.

    Attributes:
        parameters: The meta-learned weights.
        stored: The meta-learned batch-norm statistics: a moving average over support sets.
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
        self.stored = self.network.neutral_statistics()

    def _initial_head(self, seed: int) -> Parameters:
        width = self.network.width(self.preprocessing.size)
        if self.config.head_start == "zero":
            return {"head.weight": torch.zeros(self.way, width), "head.bias": torch.zeros(self.way)}
        bound = width**-0.5
        draw = torch.rand(self.way, width, generator=seeds.generator(seed, "head"))
        return {"head.weight": (2.0 * draw - 1.0) * bound, "head.bias": torch.zeros(self.way)}

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
        """Adapt the parameters to normalised support images.

        Returns:
            The adapted parameters with a head of `way` rows, and the batch-norm statistics of the last pass over the
            support set. Both are attached to the graph of `parameters` only when `second_order`; the adapted
            parameters then also carry the gradient to the support images.
        """

    def refit_head(
        self,
        parameters: Parameters,
        statistics: Statistics,
        inputs: Float[Tensor, "support 3 size size"],
        labels: Int64[Tensor, "support"],
    ) -> tuple[Parameters, Statistics]:
        """Compute the head again after the backbone has changed; only a head in closed form (ProtoNet) depends on it.

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
        """Gradient steps of `adapt`; see `LearnerConfig.test_inner_steps`."""
        fitting = self.config.inner_steps if self.protocol == "paper" else max(self.config.inner_steps, _STRICT_STEPS)
        return self.config.test_inner_steps or fitting

    def query_statistics(self, support: Statistics, stored: Statistics) -> Statistics | None:
        """The statistics that query images are normalised with; None: their own (`paper`)."""
        if self.protocol == "paper":
            return None
        share = self.config.statistics_shrinkage
        if share == 0.0:
            return support
        return {name: torch.lerp(value, stored[name], share) for name, value in support.items()}

    def episode_loss(
        self, parameters: Parameters, stored: Statistics, episode: Episode, *, second_order: bool | None = None
    ) -> EpisodeOutcome:
        """The outer loss of one episode (papers 1.4): adapt to the support set, cross-entropy on the query set.

        Args:
            parameters: Leaves that take gradients, or the learner's own.
            stored: Meta-learned batch-norm statistics.
            episode: Of `way` classes.
            second_order: Differentiate through the inner loop (also to the support images); None: as configured.
        """
        adapted, support = self.inner_loop(
            parameters,
            self.preprocessing.normalise(episode.support_images),
            episode.support_labels,
            way=self.way,
            steps=self.config.inner_steps,
            second_order=self.config.second_order if second_order is None else second_order,
        )
        inputs = self.preprocessing.normalise(episode.query_images)
        features, _ = self.network.features(adapted, inputs, self.query_statistics(support, stored))
        logits = functional.linear(features, adapted["head.weight"], adapted["head.bias"])
        loss = functional.cross_entropy(logits, episode.query_labels)
        accuracy = (logits.detach().argmax(dim=1) == episode.query_labels).float().mean()
        return EpisodeOutcome(loss, accuracy, {name: value.detach() for name, value in support.items()})

    @torch.no_grad()
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """See `MetaLearner.fit_support`; builds no graph across steps."""
        adapted, support = self.inner_loop(
            self.parameters,
            self.preprocessing.normalise(images),
            labels,
            way=len(names),
            steps=self.test_inner_steps,
            second_order=False,
        )
        return self.classifier(adapted, support, names)

    def classifier(self, adapted: Parameters, support: Statistics, names: tuple[str, ...]) -> NetworkClassifier:
        """The network with adapted weights.

        Args:
            adapted: With a head of one row a name.
            support: Batch-norm statistics of the support set.
            names: Of the classes.
        """
        return NetworkClassifier(
            self.network,
            self.architecture,
            {name: value.detach() for name, value in adapted.items()},
            self.query_statistics(support, self.stored),
            names,
            self.preprocessing,
        )

    def to(self, device: torch.device) -> GradientLearner:
        """Move to a device; returns itself."""
        self.device = device
        self.parameters = {name: value.to(device) for name, value in self.parameters.items()}
        self.stored = {name: value.to(device) for name, value in self.stored.items()}
        return self

    def get_config(self) -> dict[str, Any]:
        """See `MetaLearner.get_config`."""
        return {**super().get_config(), "learner": self.config.model_dump(mode="json")}

    def state_dict(self) -> dict[str, Tensor]:
        """See `MetaLearner.state_dict`."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        return tensors | {f"stored.{name}": value for name, value in self.stored.items()}

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
        learner.parameters, learner.stored = strip(state_dict, "parameters."), strip(state_dict, "stored.")
        return learner


def head_for(parameters: Parameters, way: int) -> Parameters:
    """The parameters with a head of `way` rows: as learned, or, for another way, the mean row for every class."""
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    if len(weight) == way:
        return parameters
    rows = {"head.weight": weight.mean(0).expand(way, -1), "head.bias": bias.mean(0).expand(way)}
    return {**parameters, **rows}
