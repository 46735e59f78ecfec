"""`best_member`: a learner on the features of one member, chosen by its similarity to the whole zoo.

A baseline: no weights are trained, and the meta-iterations only recover images for the comparison. The members' own
accuracies do not help to choose one, since they are measured on different classes. Instead, the features of each member
are compared with the class probabilities of all members, on images that were recovered from members at random, by
linear CKA (Kornblith et al., ICML 2019), which needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from dfml.errors import RunError
from dfml.images import to_bytes, to_float
from dfml.inversion.ei import ANY_ARCHITECTURE, PixelInversionConfig
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig, LearnedEngine
from dfml.learners.classifier import select_prefix
from dfml.learners.embedding import HeadFit
from dfml.learners.student import MemberOutputs
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.methods.base import Method
from dfml.training.checkpoint import State
from dfml.training.distillation_buffer import DistillationBuffer
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.metrics import describe_inversion_metrics
from dfml.zoo.members import query_members
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.zoo import Zoo

_BATCH = 128  # images per forward pass of a member


class BestMemberConfig(TrainingConfig):
    """Settings of `best_member`."""

    iterations: PositiveInt = 20
    """Number of meta-iterations; each recovers images from one member, sampled at random."""
    images_per_class: PositiveInt = 10
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    inversion: InversionConfig = InversionConfig(
        engine="ei",
        # Not the defaults of `ei`: without its search a training takes about a minute on 100 Conv4 members, and the
        # results in docs/results were measured with this loss and this start.
        ei=PixelInversionConfig(
            start="noise",
            search_steps=0,
            steps=100,
            lr=0.1,
            clip=False,
            weights=InversionWeights(batch_norm=1.0, total_variation=0.01, l2=0.001),
        ),
        fallback=ANY_ARCHITECTURE,
    )
    """Inversion engine, and the settings of each engine."""
    patience: PositiveInt = 5
    """Number of inversions of a member in a row in which its cross-entropy does not fall and ends above that of a
    uniform prediction, after which the member is excluded."""
    fit: HeadFit = "mean"
    """Classifier head of a few-shot task. `mean`: nearest class mean by cosine similarity. `ridge`: ridge
    regression."""


class BestMember(Method):
    """The features of the member that is most similar to the whole zoo, with a head fitted to the support set.

    Black-box members, which only predict, take part in the comparison, but cannot be chosen.
    """

    name: ClassVar[str] = "best_member"
    trains_on_demand: ClassVar[bool] = True
    config_type: ClassVar[type[TrainingConfig]] = BestMemberConfig
    config: BestMemberConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        return BestMemberRun(self.config, zoo, device)


class BestMemberRun(TrainingRun):
    """The state of `best_member`: recovered images with the predictions of all members.

    The member is chosen after the last meta-iteration, or when `learner` is called before.
    """

    images_caption = "Recovered images on which the members were compared."

    def __init__(self, config: BestMemberConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo = config, zoo
        self.iterations = config.iterations
        self.preprocessing = zoo.preprocessing(config.img_size)
        self.source = ImageSource(
            config.inversion, zoo, self.preprocessing, patience=config.patience, seed=config.seed, device=device
        )
        outputs = [len(classes) for classes in zoo.classes.of_member]
        self._member_outputs = MemberOutputs(outputs)
        self._messages: list[str] = []
        # The last choice: the number of images that it was made on (with more, it is made again), the index of the
        # member, and its CKA.
        self._choice: tuple[int, int, float] | None = None
        capacity = config.iterations * self.source.most_images(config.images_per_class)
        self.buffer = DistillationBuffer(capacity, self.preprocessing.size, sum(outputs), device)
        self._classes = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]

    @torch.no_grad()
    def step(self, iteration: int) -> Mapping[str, float]:
        """Recover images from one member, and store them with the predictions of all members.

        Members are queried about the images as they are stored: rounded to bytes.
        """
        with torch.enable_grad():  # only the inversion needs gradients
            recovered = self.source.recover(
                self.source.sample_members(iteration, 1), self.config.images_per_class, iteration
            )
        for member, (images, labels) in recovered.items():
            rounded = to_bytes(images)
            log_probabilities = self._member_outputs.log_softmax(query_members(self.zoo, to_float(rounded)))
            self.buffer.add(rounded, log_probabilities, self._classes[member][labels])
        if iteration == self.iterations:
            best, similarity = self._choose()
            name = self.zoo.name(best)
            self._messages.append(f"{name} is most similar to the whole zoo (linear CKA {similarity:.2f})")
        # Without a student there is no disagreement between it and the members.
        return {name: value for name, value in self.source.last_metrics.items() if name != "disagreement"}

    def _choose(self) -> tuple[int, float]:
        """Index of the member whose features are most similar to the zoo's predictions, and its linear CKA.

        Raises:
            RunError: If no image could be recovered.
        """
        if len(self.buffer) == 0:
            raise RunError("no images could be recovered to compare the members on; choose more --iterations")
        if self._choice and self._choice[0] == self.buffer.written:
            return self._choice[1:]
        batches = torch.split(self.buffer.images[: len(self.buffer)], _BATCH)
        # Predictions that are not finite count as zero; a member whose features are not finite is never the best.
        predictions = self.buffer.log_probabilities[: len(self.buffer)].float().exp().nan_to_num()
        similarities = []
        for member in self.zoo:
            if not isinstance(member, PretrainedClassifier):  # it only predicts, and has no features
                similarities.append(predictions.new_tensor(-1.0))  # below any CKA, so it is never chosen
                continue
            learner = ZooEmbeddingLearner([member], self.preprocessing, representation="features")
            features = torch.cat([learner.embed(to_float(batch)) for batch in batches])
            similarities.append(linear_cka(features, predictions))
        highest = torch.stack(similarities).nan_to_num(nan=-1.0).max(dim=0)
        self._choice = (self.buffer.written, int(highest.indices), float(highest.values))
        return self._choice[1:]

    @torch.no_grad()
    def learner(self) -> ZooEmbeddingLearner:
        """See `TrainingRun.learner`."""
        best, _ = self._choose()
        learner = ZooEmbeddingLearner(
            [self.zoo[best]],
            self.preprocessing,
            representation="features",
            fit=self.config.fit,
            way=self.config.way,
            name=BestMember.name,
        )
        return learner.to(self.buffer.images.device)

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        messages, self._messages = self._messages, []
        return [*self.source.pop_messages(), *messages]

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        return describe_inversion_metrics()

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """See `TrainingRun.images`."""
        return self.buffer.newest(class_index, count)

    def learned_engine(self) -> LearnedEngine | None:
        """See `TrainingRun.learned_engine`."""
        return self.source.learned_engine()

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        engine, values = self.source.state_dict()
        tensors = {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffer.state_dict().items()}
        # The buffer's capacity depends on `iterations`, which may differ where a run starts from another's checkpoint.
        return State(tensors, values, any_length=frozenset(f"buffer.{name}" for name in DistillationBuffer.ROWS))

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        self.source.load_state_dict(select_prefix(state.tensors, "engine."), state.values)
        self.buffer.load_state_dict(select_prefix(state.tensors, "buffer."))
        self._choice = None


def linear_cka(first: Float[Tensor, "images features"], second: Float[Tensor, "images others"]) -> Float[Tensor, ""]:
    """Linear CKA of two embeddings of the same images (Kornblith et al., ICML 2019, centred kernel alignment).

    It is invariant to orthogonal transformations and to isotropic scaling of either embedding.

    Returns:
        The similarity, in [0, 1]; NaN if an embedding is constant or not finite.
    """
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    norms = torch.linalg.matrix_norm(first.T @ first) * torch.linalg.matrix_norm(second.T @ second)
    similarity: Tensor = torch.linalg.matrix_norm(first.T @ second).square() / norms
    return similarity
