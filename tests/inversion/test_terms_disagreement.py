"""The disagreement of member and student, compared with torch's own divergences and sums in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from dfml.inversion.loss import InversionWeights, inversion_loss
from dfml.inversion.term_values import disagreement
from dfml.inversion.views import View
from tests.factories import PREPROCESSING, SIZE, images, member

LOGITS = st.lists(st.floats(-30, 30), min_size=3, max_size=3)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def batch(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def reference_js(member: Tensor, student: Tensor) -> float:
    total = 0.0
    for row, other in zip(member.tolist(), student.tolist(), strict=True):
        p, q = ([math.exp(x / 3.0) for x in logits] for logits in (row, other))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        for side in (p, q):
            total += sum(a * math.log(a / m) for a, m in zip(side, middle, strict=True) if a > 0) / 2
    return total / len(member) / math.log(2)


def test_it_is_the_kl_divergence_of_member_and_student_where_both_predict_one_class() -> None:
    """In the released code of FREE, probabilities are passed where `kl_div` expects log-probabilities."""
    teacher = batch([3.0, 0.0, -1.0], [0.2, 1.0, 0.9], [0.0, 0.0, 4.0])
    student = batch([1.0, 0.5, 0.0], [1.0, 0.3, 0.0], [0.5, 1.0, 2.0])  # the second row predicts another class
    each = kl_divergence(Categorical(logits=teacher), Categorical(logits=student))
    expected = (each[0] + each[2]) / 3
    found = disagreement(teacher, student)
    torch.testing.assert_close(found, expected)
    released = functional.kl_div(student.softmax(1), teacher.softmax(1), reduction="none").sum(1)
    assert not torch.isclose(found, (released[0] + released[2]) / 3, rtol=0.1)


@given(LOGITS, LOGITS)
def test_it_is_never_negative_and_zero_where_predictions_differ(teacher: list[float], other: list[float]) -> None:
    p, q = batch(teacher), batch(other)
    found = disagreement(p, q)
    assert found >= -1e-12
    if p.argmax() != q.argmax():
        assert found == 0
    torch.testing.assert_close(disagreement(p, p), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)


@given(LOGITS, LOGITS)
def test_jensen_shannon_is_symmetric_and_between_zero_and_one(teacher: list[float], other: list[float]) -> None:
    p, q = batch(teacher, other), batch(other, other)
    found = disagreement(p, q, "js")
    assert -1e-12 <= found <= 1 + 1e-12
    torch.testing.assert_close(found, disagreement(q, p, "js"), atol=1e-12, rtol=1e-9)
    assert float(found) == pytest.approx(reference_js(p, q), abs=1e-9)


def test_jensen_shannon_of_opposites_is_one() -> None:
    assert float(disagreement(batch([600.0, 0.0, 0.0]), batch([0.0, 0.0, 600.0]), "js")) == pytest.approx(1.0)


@pytest.mark.parametrize("through_student", [True, False])
@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_the_gradient_reaches_the_images_through_the_student_or_not(through_student: bool, divergence: str) -> None:
    """In the released code of FREE, the student is detached from the graph."""
    classifier = member(0).double()
    weights = InversionWeights(
        batch_norm=0.0,
        disagreement=0.7,
        divergence=divergence,
        student_gradient=through_student,
        total_variation=0.0,
        l2=0.0,
    )
    # The student predicts the member's classes with lower confidence.
    mixed = torch.randn(3, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02

    def student(shown: Tensor) -> Tensor:
        return 0.5 * classifier.logits(shown) + shown.flatten(1) @ mixed.T

    pixels = PREPROCESSING.normalise(images(6, dtype=torch.float64)).requires_grad_()
    loss = inversion_loss(classifier, pixels, LABELS, PREPROCESSING, weights, View(), student=student)

    shown = PREPROCESSING.denormalise(pixels)
    logits, student_logits = classifier.logits(shown), student(shown)
    student_logits = student_logits if through_student else student_logits.detach()
    reward = disagreement(logits, student_logits, divergence)
    assert reward > 1e-3
    expected = functional.cross_entropy(logits, LABELS) - 0.7 * reward
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.disagreement, reward.detach())
    torch.testing.assert_close(torch.autograd.grad(loss.total, pixels), torch.autograd.grad(expected, pixels))


def test_the_student_receives_images_at_their_own_size_in_the_view_of_the_member() -> None:
    received: list[Tensor] = []

    def student(shown: Tensor) -> Tensor:
        received.append(shown)
        return torch.zeros(len(shown), 3)

    weights = InversionWeights(disagreement=1.0)
    pixels = PREPROCESSING.normalise(images(3))
    inversion_loss(member(0), pixels, LABELS[:3], PREPROCESSING, weights, View(1, 1), student=student)
    torch.testing.assert_close(received[0], images(3).roll((1, 1), (2, 3)))
