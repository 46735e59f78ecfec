"""`FewShotClassifier`: what a learner becomes after it has seen a support set."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dfml.errors import LearnerError
from dfml.files import save_tensors
from dfml.images import resize_and_crop
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics
from dfml.zoo.pretrained import Preprocessing

CONFIG, WEIGHTS = "config.json", "model.safetensors"

Kind = TypeVar("Kind")


def add_kind(kinds: dict[str, type[Kind]], kind: type[Kind]) -> None:
    """Note under which name `config.json` speaks of a class, if it has a `kind` of its own.

    Raises:
        TypeError: If another class has that name: what one saved, the other would load.
    """
    name = vars(kind).get("kind")
    if name is None:
        return
    known = kinds.get(name, kind)
    # A class that is defined once more (a cell run again, a module loaded again) takes its own place.
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise TypeError(
            f"{kind.__qualname__}: expected a `kind` of its own, found {name!r}, which is "
            f"{known.__module__}.{known.__qualname__}; choose another"
        )
    kinds[name] = kind


def find_kind(kinds: Mapping[str, Kind], name: str) -> Kind | None:
    """A kind of learner or classifier by the name in its `config.json`.

    A kind that no imported module has brought is looked up among the entry points of `dfml.learners`, where any package
    may announce the module that defines it.
    """
    if name not in kinds:
        for announced in entry_points(group="dfml.learners", name=name):
            announced.load()
    return kinds.get(name)


class FewShotClassifier(ABC):
    """Predicts the classes of one support set.

    Attributes:
        labels: One name a class, in the order of the probabilities.
        preprocessing: Images of another size are resized (short side) and cropped to the centre.
        device: Where it computes; images are brought there.
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
        """Logits for images in [0, 1] of the right size."""

    @abstractmethod
    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it takes to rebuild the classifier: plain values and tensors."""

    @classmethod
    @abstractmethod
    def rebuild(
        cls, labels: tuple[str, ...], preprocessing: Preprocessing, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> FewShotClassifier:
        """The inverse of `contents`."""

    @torch.no_grad()
    def predict_proba(
        self, images: Float[Tensor, "images 3 height width"], *, batch_size: int = 256
    ) -> Float[Tensor, "images labels"]:
        """Probability of every class.

        Args:
            images: In [0, 1], any size.
            batch_size: Images at a time; it changes no answer, except under the transductive `paper` protocol.

        Raises:
            DataError: If the images are bytes instead of floats in [0, 1].
        """
        fitted = resize_and_crop(images, self.preprocessing.size).to(self.device)
        return torch.cat([self.scores(part).softmax(dim=1) for part in torch.split(fitted, batch_size)])

    def predict(
        self, images: Float[Tensor, "images 3 height width"], *, batch_size: int = 256
    ) -> Int64[Tensor, "images"]:
        """Index into `labels` of the most probable class."""
        return self.predict_proba(images, batch_size=batch_size).argmax(dim=1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config, tensors = self.contents()
        about = {
            "kind": self.kind,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.as_dict(),
            **config,
        }
        save_tensors(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def from_pretrained(folder: str | Path) -> FewShotClassifier:
        """Load what `save_pretrained` wrote.

        Raises:
            LearnerError: If the folder does not hold a classifier.
        """
        config, tensors = read_pretrained(Path(folder), "classifier (from `dfml adapt`)")
        kind = find_kind(FewShotClassifier._kinds, config.pop("kind", ""))
        if kind is None:
            raise LearnerError(f"{folder} does not hold a few-shot classifier; make one with `dfml adapt`")
        labels, preprocessing = tuple(config.pop("labels")), read_preprocessing(config.pop("preprocessing"))
        return kind.rebuild(labels, preprocessing, config, tensors)


class NetworkClassifier(FewShotClassifier):
    """One network with a linear head: what MAML, ANIL and ProtoNet adapt to.

    Args:
        network: The feature extractor.
        architecture: Its name and arguments, to rebuild it.
        parameters: Adapted weights, with the head.
        statistics: For batch-norm (`strict`: the support set's). None: every batch normalises itself (`paper`).
        labels: One name a class.
        preprocessing: Of the network's input.
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
        """Logits."""
        inputs = self.preprocessing.normalise(images)
        features, _ = self.network.features(self.parameters, inputs, self.statistics)
        return torch.nn.functional.linear(features, self.parameters["head.weight"], self.parameters["head.bias"])

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `FewShotClassifier.contents`."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"statistics.{name}": value for name, value in (self.statistics or {}).items()}
        return {"network": self.architecture, "transductive": self.statistics is None}, tensors

    @classmethod
    def rebuild(
        cls, labels: tuple[str, ...], preprocessing: Preprocessing, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> NetworkClassifier:
        """See `FewShotClassifier.rebuild`."""
        architecture = config["network"]
        network = EpisodeNetwork(architecture["architecture"], architecture["arguments"], seed=0)
        return cls(
            network,
            architecture,
            strip(tensors, "parameters."),
            None if config["transductive"] else strip(tensors, "statistics."),
            labels,
            preprocessing,
        )


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_preprocessing(values: dict[str, Any]) -> Preprocessing:
    """From the plain values of a `config.json`."""
    return Preprocessing(values["size"], tuple(values["mean"]), tuple(values["std"]))


def read_pretrained(folder: Path, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `config.json` and `model.safetensors` of something that this project saved.

    Raises:
        LearnerError: If either is missing or damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise LearnerError(f"expected a saved {what} at {folder}, found none that can be read ({error})") from error
    if not isinstance(config, dict):
        raise LearnerError(f"expected a saved {what} at {folder}, but its {CONFIG} is not an object")
    return config, tensors
