"""Shifts and mirrorings of a batch, compared with torch and with a loop over pixels."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml import seeds
from dfml.inversion.loss import InversionWeights
from dfml.inversion.views import View, sample_view
from tests.factories import images

OFFSETS = st.integers(-6, 6)


def shifted(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Images shifted pixel by pixel; pixels from outside are 0, the mean colour."""
    moved = torch.zeros_like(pixels)
    height, width = pixels.shape[-2:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - rows < height and 0 <= column - columns < width:
                moved[..., row, column] = pixels[..., row - rows, column - columns]
    return moved


@given(OFFSETS, OFFSETS, st.booleans())
def test_with_wrap_pixels_that_leave_come_back_on_the_other_side(rows: int, columns: int, flip: bool) -> None:
    pixels = images(2, size=5)
    rolled = torch.roll(pixels, (rows, columns), (2, 3))
    assert torch.equal(View(rows, columns, flip).apply(pixels), rolled.flip(3) if flip else rolled)


@given(OFFSETS, OFFSETS, st.booleans())
def test_without_wrap_the_border_has_the_mean_colour(rows: int, columns: int, flip: bool) -> None:
    pixels = images(2, size=5)
    expected = shifted(pixels, rows, columns)
    assert torch.equal(View(rows, columns, flip, wrap=False).apply(pixels), expected.flip(3) if flip else expected)


def test_gradients_reach_only_the_pixels_within_the_view() -> None:
    pixels = images(1, size=5).requires_grad_()
    weights = images(1, seed=1, size=5)
    (View(2, -1, True, wrap=False).apply(pixels) * weights).sum().backward()
    assert torch.equal(pixels.grad, shifted(weights.flip(3), -2, 1))


def test_sampled_views_have_every_offset_within_the_jitter_and_both_mirrorings() -> None:
    weights = InversionWeights(jitter=2, flip=True, wrap=False)
    sampled = {sample_view(weights, seeds.generator(0, "view", index)) for index in range(800)}
    assert sampled == {View(r, c, flip, False) for r in range(-2, 3) for c in range(-2, 3) for flip in (False, True)}


def test_views_are_mirrored_and_shifted_only_by_their_settings() -> None:
    sampled = {sample_view(InversionWeights(jitter=1), seeds.generator(0, "view", index)) for index in range(100)}
    assert sampled == {View(r, c) for r in range(-1, 2) for c in range(-1, 2)}
    no_jitter = InversionWeights(jitter=0)
    assert {sample_view(no_jitter, seeds.generator(0, "view", index)) for index in range(20)} == {View()}
