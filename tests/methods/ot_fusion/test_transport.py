from __future__ import annotations

import itertools
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml.errors import RunError
from dfml.methods.ot_fusion.transport import import_solver, match_channels, permute_blocks
from tests.factories import images
from tests.methods.ot_fusion.networks import permuted, random_network

RESNETS = ("fewshot_resnet10", "fewshot_resnet18")
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("architecture", ["conv4", "conv4_64", *RESNETS])
def test_permuted_channels_change_every_layer_and_no_prediction(architecture: str) -> None:
    network = random_network(architecture, 0)
    other = permuted(network, 1)
    before, after = network.state_dict(), other.state_dict()
    same = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert {name.rpartition(".")[2] for name in same} <= {"num_batches_tracked", "bias"}  # of conv: zero; of the head
    batch = images(5, 3, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(batch), network(batch), rtol=1e-3, atol=1e-4)


@given(seed=seeds, channels=st.integers(1, 40), values=st.integers(2, 30))
def test_matching_between_distinct_channels_undoes_their_order(seed: int, channels: int, values: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(channels, values, generator=generator, dtype=torch.float64)
    order = torch.randperm(channels, generator=generator)
    found = match_channels(reference[order], reference)
    assert torch.equal(order[found], torch.arange(channels))


@given(seed=seeds, channels=st.integers(1, 5), alike=st.integers(0, 3), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_the_match_is_the_cheapest_permutation(seed: int, channels: int, alike: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, reference = torch.randn(2, channels, 3, generator=generator, dtype=torch.float64)
    features[:alike] = features[:1]  # equal channels, in any order
    features, reference = scale * features, scale * reference
    costs = (reference[:, None] - features[None]).square().sum(dim=2)
    found = match_channels(features, reference)
    assert sorted(found.tolist()) == list(range(channels))
    places = torch.arange(channels)
    cheapest = min(float(costs[places, list(order)].sum()) for order in itertools.permutations(range(channels)))
    assert float(costs[places, found].sum()) == pytest.approx(cheapest)


@given(seed=seeds, channels=st.integers(1, 6), pixels=st.integers(1, 5))
def test_a_head_over_flattened_maps_is_reordered_by_blocks(seed: int, channels: int, pixels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(3, channels * pixels, generator=generator, dtype=torch.float64)
    order = torch.randperm(channels, generator=generator)
    expected = torch.empty_like(head)
    for place in range(channels):
        for pixel in range(pixels):
            expected[:, place * pixels + pixel] = head[:, order[place] * pixels + pixel]
    assert torch.equal(permute_blocks(head, order, 1), expected)


def test_without_the_solver_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)  # Python's own way to make an import fail
    with pytest.raises(RunError, match=r"pip install 'dfml\[ot\]'"):
        import_solver()
