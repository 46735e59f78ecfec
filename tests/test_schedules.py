from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.schedules import half_cosine


def test_it_falls_from_one_to_zero_with_a_half_in_the_middle() -> None:
    assert half_cosine(0.0) == 1.0
    assert half_cosine(0.5) == pytest.approx(0.5)
    assert half_cosine(1.0) == pytest.approx(0.0, abs=1e-15)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_it_never_rises_and_is_symmetric(first: float, second: float) -> None:
    early, late = sorted((first, second))
    assert half_cosine(early) >= half_cosine(late)
    assert half_cosine(first) + half_cosine(1.0 - first) == pytest.approx(1.0)
    assert half_cosine(first) == pytest.approx(math.cos(0.5 * math.pi * first) ** 2)
