"""Groups of unlike members, from the Fisher information of a probe."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dfml.methods.tgr.grouping import fisher_information, group_unlike, similarities


def features(weights: dict[str, Tensor], shown: Tensor) -> Tensor:
    return torch.tanh(functional.conv2d(shown, weights["kernel"], weights["bias"])).mean(dim=(2, 3))


def test_the_information_is_the_mean_of_squared_derivatives() -> None:
    """Against one backward pass per image."""
    draw = torch.Generator().manual_seed(0)
    weights = {"kernel": torch.randn(4, 3, 2, 2, generator=draw), "bias": torch.randn(4, generator=draw)}
    shown, labels = torch.randn(6, 3, 5, 5, generator=draw), torch.tensor([3, 3, 7, 7, 9, 9])
    found = fisher_information(features, weights, shown, labels)
    unit = functional.normalize(features(weights, shown), dim=1)
    head = torch.stack([unit[labels == label].mean(dim=0) for label in (3, 7, 9)])
    expected = {name: torch.zeros_like(value) for name, value in weights.items()}
    for image, label in zip(shown, labels.tolist(), strict=True):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        logits = functional.normalize(features(leaves, image[None]), dim=1) @ head.T
        (-functional.cross_entropy(logits, torch.tensor([(3, 7, 9).index(label)]))).backward()
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            expected[name] += leaf.grad.square() / 6
    torch.testing.assert_close(found["bias"], expected["bias"])
    torch.testing.assert_close(found["kernel"], expected["kernel"].mean(dim=(1, 2, 3)))


@given(st.integers(0, 100), st.integers(2, 5))
def test_similarities_are_symmetric_and_largest_with_oneself(seed: int, members: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    fisher = [{"a": torch.rand(6, generator=draw), "b": torch.rand(2, generator=draw)} for _ in range(members)]
    found = similarities(fisher)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.diagonal(), torch.ones(members, dtype=torch.float64))
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0 + 1e-9


def test_members_of_a_kind_are_in_different_groups() -> None:
    """Three kinds of two members each; in two groups, each has one member of every kind."""
    kinds = torch.tensor([0, 1, 2, 0, 1, 2])
    noise = torch.rand(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.02
    similarity = torch.where(kinds[:, None] == kinds, 1.0, 0.5).double() - (noise + noise.T) / 2
    groups = group_unlike(similarity, 2)
    assert sorted(index for group in groups for index in group) == list(range(6))
    if len(groups) == 2:
        for group in groups:
            assert len({int(kinds[index]) for index in group}) == len(group)


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 6))
def test_every_member_is_in_one_group(seed: int, members: int, groups: int) -> None:
    draw = torch.rand(members, members, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    similarity = (draw + draw.T) / 2
    similarity.fill_diagonal_(1.0)
    found = group_unlike(similarity, groups)
    assert 1 <= len(found) <= groups
    assert sorted(index for group in found for index in group) == list(range(members))
    assert found == group_unlike(similarity, groups)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_members_that_are_all_alike_are_grouped_too(value: float) -> None:
    groups = group_unlike(torch.full((4, 4), value), 2)
    assert sorted(index for group in groups for index in group) == [0, 1, 2, 3]
