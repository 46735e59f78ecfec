from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfml.methods.dro.weight_generator import (
    MemberWeights,
    WeightGenerator,
    root_mean_square,
    worst_case_perturbations,
)
from dfml.zoo import Zoo
from tests.factories import member, zoo
from tests.methods.dro.small import backbones

CPU = torch.device("cpu")


@pytest.mark.numeric
def test_mixtures_include_the_mean_and_every_member() -> None:
    members = backbones(zoo(3))
    weights = MemberWeights(members)
    assert float(weights.gram.trace()) == pytest.approx(3.0, abs=1e-4)
    mean = weights.mix(torch.zeros(3))
    for name, value in mean.items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in members]).mean(dim=0))
    for coefficients, expected in zip(torch.eye(3), members, strict=True):
        found = weights.mix(coefficients)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_a_tensor_that_all_members_share_is_kept_and_not_counted() -> None:
    members = [member(index) for index in range(3)]
    shared = members[0].network.blocks[0].conv.weight.clone()  # type: ignore[union-attr,index]
    for each in members:
        each.network.blocks[0].conv.weight.copy_(shared)  # type: ignore[union-attr,index]
    weights = MemberWeights(backbones(Zoo.of(members)))
    alone = MemberWeights([{k: v for k, v in w.items() if "blocks.0.conv.weight" not in k} for w in backbones(zoo(3))])
    torch.testing.assert_close(weights.gram, alone.gram)
    torch.testing.assert_close(weights.mix(torch.tensor([1.0, -2.0, 3.0]))["backbone.blocks.0.conv.weight"], shared)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.01, 10.0), st.integers(1, 4), st.integers(0, 1000))
def test_perturbations_stay_within_the_ball(count: int, size: int, radius: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, start, slope = (torch.randn(count, size, generator=generator, dtype=torch.float64) for _ in range(3))
    perturbations = worst_case_perturbations(
        lambda p: (p * slope).sum(1).sin(), points, start, radius=radius, steps=steps
    )
    assert float(root_mean_square(perturbations)) <= radius * (1 + 1e-9)
    flat = worst_case_perturbations(lambda p: 0.0 * p.sum(1), points, start, radius=radius, steps=steps)
    torch.testing.assert_close(flat, start * (radius / root_mean_square(start)))


@pytest.mark.numeric
def test_perturbations_are_largest_where_the_loss_grows_most() -> None:
    generator = torch.Generator().manual_seed(0)
    points, start, slope = (torch.randn(20, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    slope[0] *= 20.0
    perturbations = worst_case_perturbations(lambda p: (p * slope).sum(1), points, start, radius=0.5, steps=8)
    # For linear losses the worst case is along the slopes, each in proportion.
    worst = slope * (0.5 / root_mean_square(slope))
    assert (perturbations * slope).sum() > 0.9 * (worst * slope).sum()
    lengths = perturbations.norm(dim=1)
    assert lengths[0] > 2 * lengths[1:].max()


@pytest.mark.numeric
def test_the_length_of_embeddings_is_normalised() -> None:
    generator = WeightGenerator(6, 3, 8, 0, CPU)
    with torch.no_grad():
        before = generator.embeddings()
        generator.parameters["embeddings"].mul_(50.0).add_(7.0)
        torch.testing.assert_close(generator.embeddings(), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root_mean_square(before), torch.tensor(1.0))
    torch.testing.assert_close(before.mean(dim=0), torch.zeros(3))
