"""`NetworkClassifier`: a backbone with a linear head, to which MAML, ANIL and ProtoNet adapt."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dfml.errors import LearnerError
from dfml.learners.classifier import FewShotClassifier, read_preprocessing, select_prefix
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics
from dfml.learners.saving import require_tensors
from dfml.zoo.pretrained import Preprocessing


class NetworkClassifier(FewShotClassifier):
    """Backbone with a linear head, which MAML, ANIL and ProtoNet (prototypes written as a linear layer) return.

    Args:
        network: Feature extractor, shared by all classifiers of a learner.
        architecture: Name and arguments of the backbone, from `architecture_of`.
        parameters: Adapted weights of backbone and head.
        statistics: Batch-norm statistics that normalise all images (protocol `strict`; see
            `dfml.learners.base.ProtocolName`); None: every batch is normalised with its own statistics (`paper`).
        labels: Class names, one per row of the head.
        preprocessing: Image size, mean and standard deviation of the network's input.
    """

    kind = "network"

    def __init__(
        self,
        network: EpisodeNetwork,
        architecture: dict[str, Any],
        parameters: Parameters,
        statistics: Statistics | None,
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
    ) -> None:
        self.network = network
        self.architecture = architecture
        self.parameters = parameters
        self.statistics = statistics
        self.device = parameters["head.weight"].device
        self.labels = labels
        self.preprocessing = preprocessing

    def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        """Compute logits; see `FewShotClassifier.scores`."""
        inputs = self.preprocessing.normalise(images)
        features, _ = self.network.features(self.parameters, inputs, self.statistics)
        return functional.linear(features, self.parameters["head.weight"], self.parameters["head.bias"])

    def inference_module(self) -> nn.Module:
        """See `FewShotClassifier.inference_module`.

        Raises:
            LearnerError: If the learner follows the transductive protocol `paper`.
        """
        if self.statistics is None:
            raise LearnerError(
                "a classifier of the protocol `paper` cannot be exported: its prediction for an image depends on the "
                "other images of the batch; adapt a learner that was trained for the protocol `strict`"
            )
        backbone = self.network.fixed(self.parameters, self.statistics)
        weight, bias = self.parameters["head.weight"], self.parameters["head.bias"]
        head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device).requires_grad_(False)
        head.load_state_dict({"weight": weight, "bias": bias})
        return nn.Sequential(Normalisation(self.preprocessing), backbone, head).eval()

    def get_config(self) -> dict[str, Any]:
        """See `FewShotClassifier.get_config`."""
        return {**super().get_config(), "network": self.architecture, "transductive": self.statistics is None}

    def state_dict(self) -> dict[str, Tensor]:
        """See `FewShotClassifier.state_dict`."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        return tensors | {f"statistics.{name}": value for name, value in (self.statistics or {}).items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> NetworkClassifier:
        """See `FewShotClassifier.from_config`."""
        backbone, labels = config["network"], tuple(config["labels"])
        # The initial weights, of whatever seed, are not used: all weights come from `state_dict`.
        network = EpisodeNetwork(backbone["architecture"], backbone["arguments"], seed=0)
        preprocessing = read_preprocessing(config["preprocessing"])
        parameters = select_prefix(state_dict, "parameters.")
        statistics = None if config["transductive"] else select_prefix(state_dict, "statistics.")
        width = network.width(preprocessing.size)
        head = {"head.weight": torch.empty(len(labels), width), "head.bias": torch.empty(len(labels))}
        require_tensors(parameters, {**network.initial(), **head})
        if statistics is not None:
            require_tensors(statistics, network.neutral_statistics())
        return cls(network, backbone, parameters, statistics, labels, preprocessing)


class Normalisation(nn.Module):
    """`Preprocessing.normalise` as a module.

    Args:
        preprocessing: Mean and standard deviation of the network's input.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images 3 size size"]:
        """Normalise images in [0, 1]."""
        return self.preprocessing.normalise(images)
