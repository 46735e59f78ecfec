"""Cross-task distillation: a learner takes over what frozen members answer (papers 2.4).

Members answer different questions: output 0 of one is a cat, of another a truck, and one has five outputs where another
has ten. Which row of the learner's distillation head stands for which output is decided by a `HeadRule`:

`classes`: the head has one row for every class of the zoo, and a member is compared with the rows of its own classes.
    Members of any way fit in, and the same class of two members is one row, wherever each of them puts it.
`positions`: output j of every member is row j of one head, whatever class it is, as in the released code. The head has
    as many rows as the member with the most outputs, and a member with fewer uses the first. Members that share a row
    ask for different things of it; that is harmless only as far as the head is learned anew for every task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.images import resize_and_crop
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters

HeadRule = Literal["classes", "positions"]
"""Which rows of the distillation head a member's outputs are compared with; see the module."""


def head_size(rule: HeadRule, classes_of_member: Sequence[Sequence[int]]) -> int:
    """Rows of the distillation head.

    Args:
        rule: Which rows stand for which outputs.
        classes_of_member: For every member of the zoo, the class of each of its outputs; classes count from 0.
    """
    if rule == "classes":
        return 1 + max(max(classes) for classes in classes_of_member)
    return max(len(classes) for classes in classes_of_member)


def head_rows(rule: HeadRule, classes_of_member: Sequence[Sequence[int]]) -> list[Int64[Tensor, "outputs"]]:
    """For every member, the rows of the distillation head that stand for its outputs; see `head_size`."""
    if rule == "classes":
        return [torch.tensor(classes) for classes in classes_of_member]
    return [torch.arange(len(classes)) for classes in classes_of_member]


def class_logits(
    features: Float[Tensor, "images features"],
    weight: Float[Tensor, "head_rows features"],
    bias: Float[Tensor, "head_rows"],
    rows: Int64[Tensor, "outputs"],
) -> Float[Tensor, "images outputs"]:
    """A linear head reduced to some of its rows, in their order."""
    return functional.linear(features, weight[rows], bias[rows])


def divergence(
    teacher_logits: Float[Tensor, "images outputs"],
    student_logits: Float[Tensor, "images outputs"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the softmax probabilities in nats, mean over images (papers 2.9, 1).

    Zero where both answer alike, and nowhere else. Gradients reach both arguments.

    Args:
        teacher_logits: What is to be taken over.
        student_logits: Of the same images, with the outputs in the same order.
        temperature: Logits are divided by it, and the divergence is multiplied by its square, so that the size of the
            gradient hardly depends on it (Hinton et al. 2015).
    """
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    student = functional.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


class Distillation:
    """A learner's backbone under a distillation head: the student of all members of a zoo.

    The head that episodes start from is not touched.

    Args:
        blank: The learner; says how features are computed.
        backbone: Its weights, `backbone.*`; shared with whoever else trains them.
        classes_of_member: See `head_size`.
        rule: Which rows stand for which outputs.
        temperature: See `divergence`.
        seed: Of the head's first weights.

    Attributes:
        parameters: `backbone.*`, and the head's `weight` and `bias`.
        rows: For every member, the rows of the head that stand for its outputs.
    """

    def __init__(
        self,
        blank: GradientLearner,
        backbone: Parameters,
        classes_of_member: Sequence[Sequence[int]],
        *,
        rule: HeadRule = "classes",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._blank, self._temperature = blank, temperature
        size, width = head_size(rule, classes_of_member), blank.parameters["head.weight"].shape[1]
        draw = torch.rand(size, width, generator=seeds.generator(seed, "distillation head"))
        head = {"weight": (2.0 * draw - 1.0) * width**-0.5, "bias": torch.zeros(size)}
        self.head: Parameters = {name: value.to(blank.device).requires_grad_() for name, value in head.items()}
        self.parameters: Parameters = {**backbone, **self.head}
        self.rows = [rows.to(blank.device) for rows in head_rows(rule, classes_of_member)]

    def answer(self, images: Float[Tensor, "images 3 size size"], rows: Tensor | None) -> Tensor:
        """The student's logits for a member's outputs, with weights as they are: only images take gradients."""
        assert rows is not None
        return self._logits({name: value.detach() for name, value in self.parameters.items()}, images, rows)

    def loss(
        self, images: Float[Tensor, "images 3 size size"], answers: Float[Tensor, "images outputs"], member: int
    ) -> Callable[[Parameters], Tensor]:
        """A member's divergence from the student as a function of the student's weights.

        Args:
            images: In [0, 1].
            answers: The member's logits of them.
            member: Its index.
        """
        return partial(self._divergence, images, answers.detach(), self.rows[member])

    def _divergence(self, images: Tensor, answers: Tensor, rows: Tensor, parameters: Parameters) -> Tensor:
        return divergence(answers, self._logits(parameters, images, rows), self._temperature)

    def _logits(self, parameters: Mapping[str, Tensor], images: Tensor, rows: Tensor) -> Tensor:
        """With the batch's own statistics, as in the first pass of adaptation."""
        space = self._blank.preprocessing
        inputs = space.normalise(resize_and_crop(images, space.size))
        features, _ = self._blank.network.features(dict(parameters), inputs)
        return class_logits(features, parameters["weight"], parameters["bias"], rows)
