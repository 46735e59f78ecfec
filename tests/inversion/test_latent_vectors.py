"""Latent vectors get their labels by an assignment that no other one exceeds."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml.errors import ConfigError
from dfml.inversion.generator_based import GeneratorConfig, GeneratorInversionRun
from dfml.inversion.latent_vectors import assign_to_labels, label_codes
from dfml.inversion.meta_generator import FiveConfig
from dfml.settings import build_config
from tests.inversion.small import small_engine, targets


def total(logits: Tensor, labels: Tensor, chosen: tuple[int, ...]) -> float:
    return float(logits.log_softmax(dim=1)[list(chosen), labels].sum())


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 2))
def test_no_other_assignment_has_a_larger_sum(seed: int, images: int, spare: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images + spare, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (images,), generator=generator)
    chosen = assign_to_labels(logits, labels).tolist()
    assert len(set(chosen)) == images
    best = max(total(logits, labels, each) for each in permutations(range(images + spare), images))
    assert total(logits, labels, tuple(chosen)) == pytest.approx(best)


def test_scores_that_are_not_finite_are_chosen_last() -> None:
    logits = torch.tensor([[torch.nan, 0.0], [3.0, 0.0], [0.0, 3.0]])
    assert assign_to_labels(logits, torch.tensor([0, 1])).tolist() == [1, 2]
    assert sorted(assign_to_labels(torch.full((2, 2), torch.nan), torch.tensor([0, 1])).tolist()) == [0, 1]


def test_codes_belong_to_outputs_whatever_else_is_asked_for() -> None:
    codes = label_codes(torch.tensor([2, 0, 2]), 8)
    torch.testing.assert_close(codes[0], codes[2])
    torch.testing.assert_close(label_codes(torch.tensor([0]), 8)[0], codes[1])


@pytest.mark.parametrize("engine", ["five", "cmi"])
def test_a_generator_starts_from_the_vectors_that_the_member_assigns(engine: str) -> None:
    """More draws leave no image with less confidence on average; the vectors are those that were drawn."""
    losses = []
    for draws in (0, 1, 4):
        run = small_engine(engine, latent_draws=draws, latent_lr=0.0).start(targets([0, 1], per_class=4))
        assert isinstance(run, GeneratorInversionRun)
        found = []
        for target, images in zip(run.targets, run.images(), strict=True):
            scores = target.network.predict_logits(images).log_softmax(dim=1)
            found.append(-scores.gather(1, target.labels[:, None]).mean())
        losses.append(torch.stack(found))
        assert all(copy.latents.shape == (12, 16) for copy in run.copies)
    drawn, assigned, chosen = losses
    assert bool((assigned < drawn).all())
    assert bool((chosen < drawn).all())


def test_a_label_is_not_both_in_the_vector_and_assigned_to_it() -> None:
    with pytest.raises(ConfigError, match="label_input"):
        build_config(FiveConfig, {"label_input": 1.0, "latent_draws": 4})
    assert GeneratorConfig().latent_draws == 0
