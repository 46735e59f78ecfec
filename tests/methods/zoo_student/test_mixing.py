from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml import seeds
from dfml.methods.zoo_student.mixing import cut_and_mix
from tests.factories import images


def boxes(count: int, size: int, seed: int = 0) -> Tensor:
    """Boxes: whether each pixel comes from the second image; images x rows x columns."""
    black, white = (torch.full((count, 3, size, size), value, dtype=torch.uint8) for value in (0, 1))
    return cut_and_mix(black, white, seeds.generator(seed, "mix"))[:, 0].bool()


@given(st.integers(1, 6), st.integers(2, 17), st.integers(0, 2**32))
def test_a_box_is_of_the_second_image_and_the_rest_of_the_first(count: int, size: int, seed: int) -> None:
    first, second = to_mix = [images(count, seed, size), images(count, seed + 1, size)]
    before = [each.clone() for each in to_mix]
    mixed = cut_and_mix(first, second, seeds.generator(seed, "mix"))
    box = boxes(count, size, seed)
    assert torch.equal(mixed, torch.where(box[:, None], second, first))
    rows, columns = box.any(dim=2), box.any(dim=1)
    assert torch.equal(box, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        framed = torch.nn.functional.pad(side.int(), (1, 1))
        assert torch.all(framed.diff(dim=1).abs().sum(dim=1) <= 2)  # one start and one end: no gap
    assert all(torch.equal(one, other) for one, other in zip(to_mix, before, strict=True))


def test_boxes_have_all_areas_and_positions() -> None:
    box = boxes(4000, 16)
    area = box.float().mean(dim=(1, 2))
    # A box of side s (1: the side of the image) with a uniform centre covers s - s^2/4 of either axis on average. The
    # mean area is that of (s - s^2/4)^2 = s^2 - s^3/2 + s^4/16, where s^2 is uniform in [0, 1].
    assert abs(area.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.02
    assert area.min() < 0.02
    assert area.max() > 0.8
    often = box.float().mean(dim=0)
    for turned in (often.flip(0), often.flip(1), often.T):
        torch.testing.assert_close(often, turned, atol=0.06, rtol=0)
    assert 0.1 < often.min() < often.max() < 0.6
    assert (box != box.transpose(1, 2)).any(dim=(1, 2)).float().mean() > 0.8  # row and column are sampled independently


def test_the_images_of_a_batch_have_different_boxes_that_depend_on_the_generator_only() -> None:
    box = boxes(50, 16)
    assert len(torch.unique(box.flatten(1), dim=0)) > 40
    assert torch.equal(box, boxes(50, 16))
    assert not torch.equal(box, boxes(50, 16, seed=1))
