from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml.training.distillation import HeadRule, class_logits, divergence, head_rows, head_size


def logits(images: int, outputs: int, seed: int, scale: float = 2.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(images, outputs, generator=draw, dtype=torch.float64)


def minimise(loss: Callable[[], Tensor], leaves: list[Tensor]) -> float:
    optimiser = torch.optim.LBFGS(leaves, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return float(loss().detach())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_equals_the_definition(temperature: float) -> None:
    teacher, student = logits(7, 4, 0), logits(7, 4, 1)
    p, q = (torch.softmax(each / temperature, dim=1) for each in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(divergence(teacher, student, temperature), expected)
    torch.testing.assert_close(divergence(teacher.repeat(3, 1), student.repeat(3, 1), temperature), expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_zero_with_a_zero_gradient_where_both_predict_the_same(temperature: float) -> None:
    teacher = logits(6, 5, 0)
    shift = logits(6, 1, 1)  # a constant per row does not change the probabilities
    student = (teacher + shift).requires_grad_()
    value = divergence(teacher, student, temperature)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.abs() < 1e-12
    assert gradient.abs().max() < 1e-12


@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 6), st.sampled_from([0.1, 3.0, 300.0]), st.floats(0.5, 8)
)
def test_it_is_never_negative_and_always_finite(
    seed: int, images: int, outputs: int, scale: float, temperature: float
) -> None:
    teacher, student = logits(images, outputs, seed, scale), logits(images, outputs, seed + 1, scale)
    value = divergence(teacher, student, temperature)
    assert value.isfinite()
    assert value > -1e-12
    assert divergence(teacher.float(), student.float(), temperature).isfinite()


@pytest.mark.numeric
def test_its_minimiser_is_the_teacher_s_prediction_and_not_the_most_likely_class() -> None:
    """The loss in the released code of FREE, `kl_div(softmax(s), softmax(t))`, is smallest for a one-hot prediction."""
    teacher, student = logits(5, 4, 0, scale=1.0), logits(5, 4, 1).requires_grad_()
    p = teacher.softmax(dim=1)
    least = minimise(lambda: divergence(teacher, student), [student])
    torch.testing.assert_close(student.detach().softmax(dim=1), p, atol=1e-4, rtol=0)
    assert least < 1e-6
    assert p.max() < 0.9  # so that a one-hot prediction would fail


def test_the_gradient_hardly_depends_on_the_temperature_and_reaches_both() -> None:
    teacher, student = logits(6, 5, 0, 0.1).requires_grad_(), logits(6, 5, 1, 0.1).requires_grad_()
    cool, warm = (torch.autograd.grad(divergence(teacher, student, t), (teacher, student)) for t in (2.0, 20.0))
    for one, other in zip(cool, warm, strict=True):
        assert one.norm() > 0
        assert 0.9 < float(one.norm() / other.norm()) < 1.1


CLASSES = ((0, 1, 2), (3, 1), (4, 5, 0, 6, 2))


def test_rows_by_classes_are_shared_by_members_with_the_same_class() -> None:
    assert head_size("classes", CLASSES) == 7
    assert [rows.tolist() for rows in head_rows("classes", CLASSES)] == [list(classes) for classes in CLASSES]


def test_rows_by_positions_are_shared_by_outputs_with_the_same_index() -> None:
    assert head_size("positions", CLASSES) == 5
    assert [rows.tolist() for rows in head_rows("positions", CLASSES)] == [[0, 1, 2], [0, 1], [0, 1, 2, 3, 4]]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), min_size=1, max_size=5))
def test_every_rule_gives_every_output_a_row_of_its_own_within_the_head(classes: list[list[int]]) -> None:
    rules: tuple[HeadRule, ...] = ("classes", "positions")
    for rule in rules:
        for rows, own in zip(head_rows(rule, classes), classes, strict=True):
            assert len(set(rows.tolist())) == len(own)
            assert 0 <= int(rows.min()) <= int(rows.max()) < head_size(rule, classes)


def test_class_logits_are_the_whole_head_s_logits_of_those_rows() -> None:
    features, weight, bias = logits(4, 3, 0), logits(7, 3, 1), logits(7, 1, 2)[:, 0]
    whole = features @ weight.T + bias
    rows = torch.tensor([5, 0, 3])
    torch.testing.assert_close(class_logits(features, weight, bias, rows), whole[:, rows])


@pytest.mark.numeric
def test_members_with_the_same_classes_can_be_fitted_by_classes_but_not_by_positions() -> None:
    """Two members have the same classes in another order, the second one class fewer."""
    features, truth = logits(20, 3, 0), logits(3, 3, 1)
    members = ((0, 1, 2), (2, 0))
    teachers = [(features @ truth.T)[:, list(classes)] for classes in members]

    def least(rule: HeadRule) -> float:
        size = head_size(rule, members)
        weight = torch.zeros(size, 3, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(size, dtype=torch.float64, requires_grad=True)
        pairs = list(zip(teachers, head_rows(rule, members), strict=True))

        def loss() -> Tensor:
            each = [divergence(teacher, class_logits(features, weight, bias, rows)) for teacher, rows in pairs]
            return torch.stack(each).sum()

        return minimise(loss, [weight, bias])

    assert least("classes") < 1e-5
    assert least("positions") > 0.1
