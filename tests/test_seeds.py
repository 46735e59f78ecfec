from __future__ import annotations

import torch

from dfml import seeds

PURPOSE = ("episode", 17, 3)


def test_numbers_are_the_same_in_every_version() -> None:
    """A change here changes every trained learner."""
    assert seeds.rng(0, *PURPOSE).integers(0, 1000, 4).tolist() == [636, 309, 791, 558]
    assert torch.randint(0, 1000, (4,), generator=seeds.generator(0, *PURPOSE)).tolist() == [324, 34, 282, 116]
    assert seeds.integer(0, *PURPOSE) == 1574928386


def test_every_seed_and_purpose_has_numbers_of_its_own() -> None:
    purposes = [("a",), ("b",), ("a", 0), ("a", 1), (0, "a"), ("a", 0, 0), ("a", "b"), ("ab",), ()]
    drawn = {seeds.integer(seed, *purpose) for seed in (0, 1) for purpose in purposes}
    assert len(drawn) == 2 * len(purposes)


def test_a_generator_does_not_depend_on_earlier_ones() -> None:
    first = torch.rand(3, generator=seeds.generator(5, "a"))
    torch.manual_seed(0)
    seeds.generator(5, "b")
    assert torch.equal(torch.rand(3, generator=seeds.generator(5, "a")), first)
