"""Cross-task distillation (FREE, BELL): the learner is trained to predict what the frozen members predict.

Members have different label sets: output 0 may be a cat in one member and a truck in another, and members differ in
their number of outputs. A `HeadRule` decides which row of the learner's distillation head is trained by which output:

`classes`: the head has one row for every class of the zoo, and a member trains the rows of its own classes. Members may
    have any number of outputs, and a class that two members share is one row, whatever its index in each of them.
`positions`: output j of every member trains row j of the head, whatever its class is, as in the released code. The head
    has as many rows as the member with the most outputs. Members that share a row train it for different classes; this
    is harmless only if the head is trained again for every task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.divergences import kl_divergence
from dfml.images import resize_and_crop
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.loss import InversionWeights
from dfml.inversion.views import AnyView
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.training.alignment import MemberLoss
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo

VIEW = InversionWeights(jitter=4, wrap=False, flip=True)
"""Random shift and mirroring of the images for the distillation."""

HeadRule = Literal["classes", "positions"]
"""Rule that assigns rows of the distillation head to the outputs of members; see the module's docstring."""


def head_size(rule: HeadRule, classes_of_member: Sequence[Sequence[int]]) -> int:
    """Number of rows of the distillation head.

    Args:
        rule: Rule that assigns rows to outputs.
        classes_of_member: For every member of the zoo, the class of each of its outputs; classes are counted from 0.
    """
    if rule == "classes":
        return 1 + max(max(classes) for classes in classes_of_member)
    return max(len(classes) for classes in classes_of_member)


def head_rows(rule: HeadRule, classes_of_member: Sequence[Sequence[int]]) -> list[Int64[Tensor, "outputs"]]:
    """Rows of the distillation head for the outputs of every member; see `head_size` for the arguments."""
    if rule == "classes":
        return [torch.tensor(classes) for classes in classes_of_member]
    return [torch.arange(len(classes)) for classes in classes_of_member]


def class_logits(
    features: Float[Tensor, "images features"],
    weight: Float[Tensor, "head_rows features"],
    bias: Float[Tensor, "head_rows"],
    rows: Int64[Tensor, "outputs"],
) -> Float[Tensor, "images outputs"]:
    """Logits of some rows of a linear head, in the order of `rows`."""
    return functional.linear(features, weight[rows], bias[rows])


def divergence(
    teacher_logits: Float[Tensor, "images outputs"],
    student_logits: Float[Tensor, "images outputs"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Distillation loss: KL(teacher || student) of the softmax probabilities in nats, mean over images.

    It is zero only where both predict the same probabilities. The released code of FREE passes probabilities instead of
    log-probabilities to `kl_div`, whose minimum is elsewhere. Gradients reach both arguments.

    Args:
        teacher_logits: Logits of the teacher.
        student_logits: Logits of the student for the same images and outputs.
        temperature: Logits are divided by it, and the divergence is multiplied by its square, so that the size of the
            gradient hardly depends on it (Hinton et al. 2015).
    """
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    student = functional.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * kl_divergence(teacher, student).mean()


class Distillation:
    """The student of all members of a zoo: a learner's backbone with a distillation head.

    The head that episodes start from is not part of it.

    Args:
        blank: Learner whose network computes the features.
        backbone: Weights of the learner's backbone, `backbone.*`; not copied, since the outer loop trains them too.
        classes_of_member: See `head_size`.
        rule: Rule that assigns rows of the head to outputs.
        temperature: See `divergence`.
        label_weight: Weight of the cross-entropy of the images' labels beside the divergence (TGR).
        seed: Seed of the initial weights of the head.

    Attributes:
        head: `weight` and `bias` of the head.
        parameters: `backbone.*`, and `weight` and `bias` of the head.
        rows: For every member, the rows of the head for its outputs.
    """

    def __init__(
        self,
        blank: GradientLearner,
        backbone: Parameters,
        classes_of_member: Sequence[Sequence[int]],
        *,
        rule: HeadRule = "classes",
        temperature: float = 1.0,
        label_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._blank, self._temperature, self._label_weight = blank, temperature, label_weight
        size, width = head_size(rule, classes_of_member), blank.parameters["head.weight"].shape[1]
        uniform = torch.rand(size, width, generator=seeds.generator(seed, "distillation head"))
        head = {"weight": (2.0 * uniform - 1.0) * width**-0.5, "bias": torch.zeros(size)}
        self.head: Parameters = {name: value.to(blank.device).requires_grad_() for name, value in head.items()}
        self.parameters: Parameters = {**backbone, **self.head}
        self.rows = [rows.to(blank.device) for rows in head_rows(rule, classes_of_member)]

    def student_logits(self, images: Float[Tensor, "images 3 size size"], rows: Tensor | None) -> Tensor:
        """The student's logits for the outputs of a member; gradients reach the images only.

        Args:
            images: Images in [0, 1].
            rows: Rows of the head for the outputs of the member; must not be None.
        """
        assert rows is not None
        return self._logits({name: value.detach() for name, value in self.parameters.items()}, images, rows)

    @torch.no_grad()
    def losses(self, zoo: Zoo, recovered: Mapping[int, RecoveredImages], view: AnyView) -> list[MemberLoss]:
        """The distillation loss of every member on a view of its images, as a function of the student's weights.

        Args:
            zoo: The members.
            recovered: Index of a member -> its images.
            view: Random view of the images.
        """
        preprocessing, losses = self._blank.preprocessing, []
        for member, (images, labels) in recovered.items():
            inputs = preprocessing.denormalise(view.apply(preprocessing.normalise(images)))
            losses.append(self.loss(inputs, teacher_logits(zoo[member], inputs), member, labels))
        return losses

    def loss(
        self,
        images: Float[Tensor, "images 3 size size"],
        teacher_logits: Float[Tensor, "images outputs"],
        member: int,
        labels: Int64[Tensor, " images"] | None = None,
    ) -> MemberLoss:
        """The distillation loss of one member as a function of the student's weights.

        Args:
            images: Images in [0, 1].
            teacher_logits: Logits of the member for these images.
            member: Index of the member in the zoo.
            labels: Outputs of the member that the images were recovered as; needed with a `label_weight`.
        """
        return partial(self._loss, images, teacher_logits.detach(), self.rows[member], labels)

    def _loss(
        self, images: Tensor, teacher_logits: Tensor, rows: Tensor, labels: Tensor | None, parameters: Parameters
    ) -> Tensor:
        logits = self._logits(parameters, images, rows)
        loss: Tensor = divergence(teacher_logits, logits, self._temperature)
        if self._label_weight and labels is not None:
            loss = loss + self._label_weight * functional.cross_entropy(logits, labels)
        return loss

    def _logits(self, parameters: Mapping[str, Tensor], images: Tensor, rows: Tensor) -> Tensor:
        """Logits under the batch's own batch-norm statistics, as in the first pass of adaptation."""
        preprocessing = self._blank.preprocessing
        inputs = preprocessing.normalise(resize_and_crop(images, preprocessing.size))
        features, _ = self._blank.network.features(dict(parameters), inputs)
        return class_logits(features, parameters["weight"], parameters["bias"], rows)
