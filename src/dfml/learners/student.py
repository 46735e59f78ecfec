"""`Student`: one compact network that answers what every member of a zoo would; its answers are the embedding."""

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
from dfml.learners.classifier import read_preprocessing
from dfml.learners.embedding import EmbeddingLearner, HeadFit, centred_probabilities
from dfml.learners.network import architecture_of
from dfml.zoo.pretrained import Preprocessing

StudentEmbedding = Literal["centred", "probabilities", "features"]
"""What embeds an image. `probabilities`: those that the student predicts for every member. `centred`: these, softened,
less the uniform distribution (`dfml.learners.embedding.centred_probabilities`). `features`: the input of its head."""


class Student(EmbeddingLearner):
    """A network with one head for all outputs of all members.

    It answers with the batch-norm statistics of its training, so no answer depends on another.

    Args:
        network: Normalised images -> logits, in timm's manner; in evaluation mode unless somebody trains it.
        architecture: Its name and arguments, to rebuild it.
        outputs: How many outputs each member has.
        preprocessing: Of the network's input.
        embedding: What embeds an image.
        fit: How heads are fitted to a support set.
        way: For the record; it adapts to any number of classes.
        name: What it is called in tables.
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
        self.groups = OutputGroups(outputs)
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
        """A student with random weights.

        Args:
            backbone: A name of `dfml.backbones.create_backbone`.
            arguments: Of the backbone.
            outputs: How many outputs each member has.
            preprocessing: Of its input.
            seed: Of the weights.
            **settings: As in the constructor.

        Raises:
            UsageError: If the network cannot be built, or is not made for images of this size.
        """
        size = preprocessing.size
        architecture = architecture_of(backbone, arguments, size)
        network = create_backbone(
            backbone, sum(outputs), seed=seeds.integer(seed, "backbone"), **architecture["arguments"]
        )
        with sized(backbone, size), torch.no_grad():
            head_inputs(network.eval(), torch.zeros(2, 3, size, size))
        return cls(network, architecture, outputs, preprocessing, **settings)

    def logits(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images outputs"]:
        """What it expects all members to answer, side by side; differentiable."""
        logits: Tensor = self.network(self._input(images))
        return logits.to(images.dtype)

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images features"]:
        """See `StudentEmbedding`."""
        return self.answer(images)[1]

    def answer(
        self, images: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images outputs"], Float[Tensor, "images features"]]:
        """`logits` and what embeds the images, from one pass; differentiable."""
        logits: Tensor
        if self.embedding == "features":
            features = head_inputs(self.network, self._input(images))
            logits = self.network.get_classifier()(features)  # type: ignore[operator]
            return logits.to(images.dtype), features.to(images.dtype)
        logits = self.logits(images)
        if self.embedding == "centred":
            return logits, self.groups.centred_probabilities(logits)
        return logits, self.groups.log_softmax(logits).exp()

    def _input(self, images: Tensor) -> Tensor:
        return self.preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)

    def copy(self) -> Student:
        """The same student in evaluation mode; shares no memory that training writes to."""
        twin = copy(self)
        twin.network = deepcopy(self.network).eval()
        return twin

    def to(self, device: torch.device) -> Student:
        """Move to a device; returns itself."""
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


class OutputGroups:
    """Which of many outputs side by side belong to the same member; what is done to a member's is done to all at once.

    Args:
        outputs: How many outputs each member has, in order.
    """

    def __init__(self, outputs: Sequence[int]) -> None:
        starts: dict[int, list[int]] = defaultdict(list)
        start = 0
        for count in outputs:
            starts[count].append(start)
            start += count
        # Members with as many outputs as each other are handled as one: members x outputs.
        self._columns: list[Int64[Tensor, "members outputs"]] = [
            torch.tensor(firsts)[:, None] + torch.arange(count) for count, firsts in starts.items()
        ]

    def log_softmax(self, logits: Float[Tensor, "images outputs"]) -> Float[Tensor, "images outputs"]:
        """Log-probabilities: over the outputs of each member apart."""
        return self._apart(lambda own: functional.log_softmax(own, dim=-1), logits)

    def centred_probabilities(self, logits: Float[Tensor, "images outputs"]) -> Float[Tensor, "images outputs"]:
        """See `dfml.learners.embedding.centred_probabilities`: of each member apart."""
        return self._apart(centred_probabilities, logits)

    def _apart(self, function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
        found = torch.empty_like(logits)
        for columns in self._columns:
            found[:, columns] = function(logits[:, columns])
        return found

    def divergence(
        self, teacher: Float[Tensor, "images outputs"], student: Float[Tensor, "images outputs"], temperature: float
    ) -> Float[Tensor, ""]:
        """KL(member || student) in nats, mean over images and members; see `dfml.methods.free.distillation.divergence`.

        Args:
            teacher: Log-probabilities or logits; NaN where a member was not asked.
            student: Logits.
            temperature: Both are divided by it.
        """
        total, asked = student.new_zeros(()), student.new_zeros(())
        for columns in self._columns:
            answered = teacher[:, columns]
            known = ~answered[..., 0].isnan()
            p = functional.log_softmax(answered.nan_to_num() / temperature, dim=-1)
            q = functional.log_softmax(student[:, columns] / temperature, dim=-1)
            total = total + (kl_divergence(p, q) * known).sum()
            asked = asked + known.sum()
        return temperature**2 * total / asked.clamp(min=1)
