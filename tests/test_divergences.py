from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml.divergences import kl_divergence


def log_probabilities(rows: int, outputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)).log_softmax(dim=-1)


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**32))
def test_it_follows_the_definition(rows: int, outputs: int, seed: int) -> None:
    teacher, student = log_probabilities(rows, outputs, seed), log_probabilities(rows, outputs, seed + 1)
    found = kl_divergence(teacher, student)
    torch.testing.assert_close(found, (teacher.exp() * (teacher - student)).sum(dim=1))
    assert bool((found > -1e-12).all())
    torch.testing.assert_close(kl_divergence(teacher, teacher), torch.zeros(rows, dtype=torch.float64))


def test_leading_axes_are_kept_and_gradients_reach_both() -> None:
    teacher = log_probabilities(6, 4, 0).view(2, 3, 4).requires_grad_()
    student = log_probabilities(6, 4, 1).view(2, 3, 4).requires_grad_()
    found = kl_divergence(teacher, student)
    assert found.shape == (2, 3)
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(found.sum(), (teacher, student)))
