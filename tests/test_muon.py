from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfml.muon import Muon, orthogonalise

SHAPES = [(8, 27), (27, 8), (16, 16), (1, 40)]


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(4)]


@pytest.mark.numeric
@pytest.mark.parametrize("shape", SHAPES)
def test_it_does_what_the_optimiser_of_torch_does_in_bfloat16(shape: tuple[int, int]) -> None:
    own, twin = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    optimiser = Muon([own], lr=0.02, momentum=0.9, weight_decay=0.2)
    reference = torch.optim.Muon([twin], lr=0.02, momentum=0.9, weight_decay=0.2)
    for gradient in gradients(shape):
        own.grad, twin.grad = gradient.clone(), gradient.clone()
        optimiser.step()
        reference.step()
    change = (twin.detach() - 1).norm()
    assert (own - twin).norm() < 0.05 * change  # at most 0.015; bfloat16 has 8 bits


@pytest.mark.numeric
@pytest.mark.parametrize("shape", SHAPES)
def test_all_directions_have_about_the_same_length_afterwards(shape: tuple[int, int]) -> None:
    matrix = gradients(shape)[0] * 1e-3
    found = orthogonalise(matrix)
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ found @ right.T  # diagonal where both have the same singular vectors
    assert (rotated - rotated.diagonal().diag()).abs().max() < 1e-3


def test_a_gradient_of_zeros_changes_nothing_but_the_decay() -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.zeros(4, 6)
    Muon([weight], lr=0.5, weight_decay=0.2).step()
    assert torch.allclose(weight, torch.full((4, 6), 0.9))


def test_weights_without_a_gradient_stay() -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    Muon([weight], lr=0.5).step()
    assert torch.equal(weight, torch.ones(4, 6))
