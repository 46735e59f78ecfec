"""`Student`: one compact network distilled from all members of a zoo; its predictions or features embed an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from dfml import seeds
from dfml.backbones import create_backbone, head_inputs, sized
from dfml.divergences import kl_divergence
from dfml.images import resize_and_crop
from dfml.learners.classifier import read_preprocessing
from dfml.learners.embedding import EmbeddingLearner, HeadFit, centred_probabilities
from dfml.learners.network import architecture_of
from dfml.learners.saving import require_tensors
from dfml.zoo.pretrained import Preprocessing

StudentEmbedding = Literal["centred", "probabilities", "features"]
"""The vector that represents an image in few-shot tasks. `probabilities`: the student's class probabilities, with one
softmax over the outputs of each member. `centred`: the same at temperature 2, minus the uniform distribution
(`dfml.learners.embedding.centred_probabilities`). `features`: the input of the student's head."""


class Student(EmbeddingLearner):
    """Few-shot learner whose network has one output for every output of every member of a zoo.

    Batch-norm uses the running statistics of the student's training, so predictions do not depend on the batch: its
    `protocol` is `any`.

    Args:
        network: Network from normalised images to logits, with the interface of timm's models. It is put into
            evaluation mode; whoever trains it switches to training mode and back.
        architecture: Name and arguments of the network, from `architecture_of`.
        outputs: Number of outputs of each member, in the order of the network's outputs.
        preprocessing: Image size, mean and standard deviation of the network's input.
        embedding: Which vector represents an image, see `StudentEmbedding`; default `centred`.
        fit: How the head is fitted to a support set; default `ridge`.
        way: Number of classes per episode, which is only recorded in the saved learner: `adapt` accepts any number.
        name: Name in tables.

    Attributes:
        member_outputs: Functions of the network's outputs that treat the outputs of each member separately.
    """

    kind: ClassVar[str] = "student"

    def __init__(
        self,
        network: nn.Module,
        architecture: dict[str, Any],
        outputs: Sequence[int],
        preprocessing: Preprocessing,
        *,
        embedding: StudentEmbedding = "centred",
        fit: HeadFit = "ridge",
        way: int = 5,
        name: str = "student",
    ) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.architecture = architecture
        self.outputs = tuple(outputs)
        self.member_outputs = MemberOutputs(outputs)
        self.preprocessing = preprocessing
        self.embedding: StudentEmbedding = embedding
        self.fit = fit
        self.way, self.name, self.protocol = way, name, "any"

    @classmethod
    def untrained(
        cls,
        backbone: str,
        arguments: dict[str, Any],
        outputs: Sequence[int],
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> Student:
        """Create a student with random weights.

        Args:
            backbone: Name of a network of dfml or timm; see `dfml.backbones.create_backbone`.
            arguments: Arguments of the backbone.
            outputs: Number of outputs of each member.
            preprocessing: Image size, mean and standard deviation of the network's input.
            seed: Seed of the weights.
            **settings: Further arguments of `Student`.

        Raises:
            UsageError: If the network is unknown or cannot be built, or cannot take images of this size.
        """
        size = preprocessing.size
        architecture = architecture_of(backbone, arguments, size)
        network = create_backbone(
            backbone, sum(outputs), seed=seeds.integer(seed, "backbone"), **architecture["arguments"]
        )
        # One pass without a result: a network that cannot take images of this size fails here, not in the training.
        with sized(backbone, size), torch.no_grad():
            head_inputs(network.eval(), torch.zeros(2, 3, size, size))
        return cls(network, architecture, outputs, preprocessing, **settings)

    def logits(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images outputs"]:
        """Predict the logits of all members.

        Args:
            images: Floats of the student's size, in [0, 1] or, as synthetic images may be, somewhat outside. The result
                is differentiable in them and in the weights.

        Returns:
            One row per image; its columns are the outputs of the first member, then those of the second, and so on.
        """
        logits: Tensor = self.network(self._input(images))
        return logits.to(images.dtype)

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images features"]:
        """Embed images, without a graph; see `StudentEmbedding`.

        Args:
            images: Floats in [0, 1], on the student's device. Another size than the student's is resized (short side,
                bilinear) and cropped to the centre.

        Raises:
            DataError: If the images are integers (bytes) instead of floats in [0, 1].
        """
        return self.logits_and_embeddings(resize_and_crop(images, self.preprocessing.size))[1]

    def logits_and_embeddings(
        self, images: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images outputs"], Float[Tensor, "images features"]]:
        """Compute `logits` and the embeddings from one forward pass; differentiable like `logits`."""
        logits: Tensor
        if self.embedding == "features":
            features = head_inputs(self.network, self._input(images))
            logits = self.network.get_classifier()(features)  # type: ignore[operator]
            return logits.to(images.dtype), features.to(images.dtype)
        logits = self.logits(images)
        if self.embedding == "centred":
            return logits, self.member_outputs.centred_probabilities(logits)
        return logits, self.member_outputs.log_softmax(logits).exp()

    def _input(self, images: Tensor) -> Tensor:
        return self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)

    def copy(self) -> Student:
        """Copy the student, in evaluation mode; the copy shares no memory that training writes to."""
        student = copy(self)
        student.network = deepcopy(self.network).eval()
        return student

    def to(self, device: torch.device) -> Student:
        """See `MetaLearner.to`."""
        self.device = device
        self.network.to(device)
        return self

    def get_config(self) -> dict[str, Any]:
        """See `MetaLearner.get_config`."""
        return {
            **super().get_config(),
            "network": self.architecture,
            "outputs": list(self.outputs),
            "embedding": self.embedding,
            "fit": self.fit,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """See `MetaLearner.state_dict`."""
        return dict(self.network.state_dict())

    @classmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> Student:
        """See `MetaLearner.from_config`."""
        architecture, outputs = config["network"], config["outputs"]
        network = create_backbone(architecture["architecture"], sum(outputs), seed=0, **architecture["arguments"])
        require_tensors(state_dict, network.state_dict())
        network.load_state_dict(state_dict)
        return cls(
            network,
            architecture,
            outputs,
            read_preprocessing(config["preprocessing"]),
            embedding=config["embedding"],
            fit=config["fit"],
            way=config["way"],
            name=config["name"],
        )


class MemberOutputs:
    """Functions of the concatenated logits of all members, which treat the outputs of each member separately.

    Args:
        outputs: Number of outputs of each member, in the order of the columns.
    """

    def __init__(self, outputs: Sequence[int]) -> None:
        starts: dict[int, list[int]] = defaultdict(list)
        start = 0
        for count in outputs:
            starts[count].append(start)
            start += count
        # Members with equally many outputs are computed together. For each number of outputs: the columns of the
        # members that have this number, one row per member.
        self._columns: list[Int64[Tensor, "members outputs"]] = [
            torch.tensor(first)[:, None] + torch.arange(count) for count, first in starts.items()
        ]

    def log_softmax(self, logits: Float[Tensor, "images outputs"]) -> Float[Tensor, "images outputs"]:
        """Compute the log-probabilities of every member."""
        return self._map(lambda group: functional.log_softmax(group, dim=-1), logits)

    def centred_probabilities(self, logits: Float[Tensor, "images outputs"]) -> Float[Tensor, "images outputs"]:
        """Compute `dfml.learners.embedding.centred_probabilities` of every member."""
        return self._map(centred_probabilities, logits)

    def _map(self, function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
        result = torch.empty_like(logits)
        for columns in self._columns:
            result[:, columns] = function(logits[:, columns])  # images x members x outputs
        return result

    def divergence(
        self, teacher: Float[Tensor, "images outputs"], student: Float[Tensor, "images outputs"], temperature: float
    ) -> Float[Tensor, ""]:
        """Compute the distillation loss of Hinton et al. (2015, arXiv 1503.02531), in nats.

        For an image and a member it is T^2 KL(softmax(t / T) || softmax(s / T)), with the teacher's logits t and the
        student's logits s for the member's outputs, and the temperature T.

        Args:
            teacher: Log-probabilities or logits of all members, in the order of the columns; NaN in all columns of a
                member that was not queried about an image.
            student: Logits of the student; the loss is differentiable in them.
            temperature: Divisor of the logits of both, greater than 0.

        Returns:
            Mean over the pairs of an image and a member that was queried about it; 0 if there are none.
        """
        total, count = student.new_zeros(()), student.new_zeros(())
        for columns in self._columns:
            logits = teacher[:, columns]
            known = ~logits[..., 0].isnan()  # a member that was not queried has NaN in all its columns
            p = functional.log_softmax(logits.nan_to_num() / temperature, dim=-1)
            q = functional.log_softmax(student[:, columns] / temperature, dim=-1)
            total = total + (kl_divergence(p, q) * known).sum()
            count = count + known.sum()
        return temperature**2 * total / count.clamp(min=1)
