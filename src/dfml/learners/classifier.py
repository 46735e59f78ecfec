"""`FewShotClassifier`: what a learner returns for a support set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml.errors import LearnerError
from dfml.files import FORMAT_VERSION
from dfml.images import resize_and_crop
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics
from dfml.learners.saving import (
    add_kind,
    build_pretrained,
    find_kind,
    read_pretrained,
    require_tensors,
    what_is_saved,
    write_pretrained,
)
from dfml.zoo.pretrained import Preprocessing


class FewShotClassifier(ABC):
    """Classifier of the classes of one support set, from `MetaLearner.adapt` or `FewShotClassifier.from_pretrained`.

    A subclass defines a class attribute `kind` (its name in `config.json`), `scores`, `get_config`, `state_dict` and
    `from_config`.

    Attributes:
        labels: Class names, in the order of the columns of `predict_proba`; `predict` returns indices into them.
        preprocessing: Image size, mean and standard deviation of the network's input.
        device: Device on which the classifier computes; images are moved there.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[FewShotClassifier]]] = {}

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        add_kind(FewShotClassifier._kinds, cls)

    @abstractmethod
    def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        """Compute logits of images in [0, 1] that have the size in `preprocessing` and are on the right device."""

    def get_config(self) -> dict[str, Any]:
        """Return everything but the tensors that `from_config` needs, as values that JSON can hold.

        Subclasses extend the result of `super().get_config()`, which holds `format_version`, `kind`, `labels` and
        `preprocessing`.
        """
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.as_dict(),
        }

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that `from_config` needs."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> FewShotClassifier:
        """Build the classifier whose `get_config()` and `state_dict()` are given, on the CPU.

        Raises:
            LearnerError: If tensors are missing or have other shapes; see `require_tensors`.
        """

    @torch.no_grad()
    def predict_proba(
        self, images: Float[Tensor, "images 3 height width"], *, batch_size: int = 256
    ) -> Float[Tensor, "images labels"]:
        """Predict the probability of every class for every image.

        Args:
            images: Floats in [0, 1], `(images, 3, height, width)`, on any device. Another size than the classifier's is
                resized (short side, bilinear) and cropped to the centre.
            batch_size: Number of images per forward pass; default 256. It does not change a prediction, unless the
                learner follows the transductive protocol `paper`, in which each batch is normalised with its own
                statistics; see `dfml.learners.base.ProtocolName`.

        Returns:
            Probabilities, `(images, classes)`; every row sums to 1. Columns are in the order of `labels`.

        Raises:
            DataError: If the images are integers (bytes) instead of floats in [0, 1].
        """
        resized = resize_and_crop(images, self.preprocessing.size).to(self.device)
        return torch.cat([self.scores(part).softmax(dim=1) for part in torch.split(resized, batch_size)])

    def predict(
        self, images: Float[Tensor, "images 3 height width"], *, batch_size: int = 256
    ) -> Int64[Tensor, "images"]:
        """Predict the most probable class of every image.

        Args:
            images: Floats in [0, 1], `(images, 3, height, width)`, of any size and on any device; see `predict_proba`.
            batch_size: Number of images per forward pass; default 256.

        Returns:
            Index into `labels` for every image, `(images,)`; `classifier.labels[index]` is the class name.

        Raises:
            DataError: If the images are integers (bytes) instead of floats in [0, 1].
        """
        return self.predict_proba(images, batch_size=batch_size).argmax(dim=1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` to a folder, which is created if it does not exist.

        Files of these names are replaced once both new ones are complete, so an interrupted save leaves the old ones.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_pretrained(folder, self.get_config(), self.state_dict())

    @staticmethod
    def from_pretrained(folder: str | Path) -> FewShotClassifier:
        """Load a classifier that `save_pretrained` wrote, on the CPU.

        Raises:
            LearnerError: If the folder holds no classifier, an incomplete one, or one of another format version.
        """
        folder = Path(folder)
        config, tensors = read_pretrained(folder, "classifier (from `dfml adapt`)")
        kind = find_kind(FewShotClassifier._kinds, config["kind"])
        if kind is None:
            if what_is_saved(config) == "learner":
                raise LearnerError(
                    f"expected a classifier at {folder}, found a learner; adapt it first: `dfml adapt {folder} "
                    "SUPPORT_DIR --out CLASSIFIER`"
                )
            raise LearnerError(
                f"expected a few-shot classifier at {folder}, found the kind {config['kind']!r}; create a classifier "
                "with `dfml adapt`, or install the package that defines this kind"
            )
        return build_pretrained(kind.from_config, folder, config, tensors)


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


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names begin with a prefix, and remove the prefix from the names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_preprocessing(values: dict[str, Any]) -> Preprocessing:
    """Build a `Preprocessing` from the plain values of a `config.json` (the inverse of `Preprocessing.as_dict`)."""
    interpolation = values.get("interpolation", "bilinear")
    return Preprocessing(values["size"], tuple(values["mean"]), tuple(values["std"]), interpolation)
