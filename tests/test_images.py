from __future__ import annotations

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dfml.errors import DataError
from dfml.image_files import square
from dfml.images import _resize_by_products, resize_and_crop, to_bytes, to_float, to_pil
from tests.factories import images


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 32))
def test_any_image_becomes_a_square_of_the_right_size_in_range(height: int, width: int, size: int) -> None:
    shown = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    result = resize_and_crop(shown, size)
    assert result.shape == (2, 3, size, size)
    assert 0.0 <= result.min() <= result.max() <= 1.0


def test_images_of_the_right_size_are_returned_as_they_are() -> None:
    shown = 2.0 * images(2) - 0.5  # synthetic images may leave [0, 1]
    assert resize_and_crop(shown, shown.shape[-1]) is shown


# Sizes from 2: torch's antialiased `interpolate` gives wrong rows for a result of width 1.
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 32))
def test_an_export_resizes_alike(height: int, width: int, size: int) -> None:
    shown = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    torch.testing.assert_close(_resize_by_products(shown, size), resize_and_crop(shown, size), atol=1e-5, rtol=0)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(2, 40))
def test_tensors_and_files_are_cropped_alike(height: int, width: int, size: int) -> None:
    pixels = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(width)).mul(255).to(torch.uint8)
    picture = square(Image.fromarray(pixels.numpy()), size)
    shown = resize_and_crop(to_float(pixels.permute(2, 0, 1)[None]), size)
    assert (255 * shown[0] - torch.from_numpy(picture.copy()).float()).abs().max() < 1.6  # Pillow rounds in between


@pytest.mark.parametrize("axis", [-2, -1])
def test_the_centre_of_the_long_side_is_kept(axis: int) -> None:
    centre = images(1, size=8)
    border = torch.zeros(1, 3, 8, 4) if axis == -1 else torch.zeros(1, 3, 4, 8)
    assert torch.equal(resize_and_crop(torch.cat([border, centre, border], dim=axis), 8), centre)


def test_integer_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's calls are not type-checked
    with pytest.raises(DataError, match=r"found torch\.uint8; divide bytes by 255"):
        resize_and_crop(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 8)


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_bytes(to_float(levels)), levels)
    assert torch.equal(to_bytes(torch.full((1, 3, 1, 1), -0.5)), torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert torch.equal(to_bytes(torch.full((1, 3, 1, 1), 1.5)), torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))


def test_a_pillow_image_has_the_pixels_in_rgb() -> None:
    image = torch.zeros(3, 2, 4)
    image[0, 1, 3] = 1.0
    picture = to_pil(image)
    assert (picture.mode, picture.size) == ("RGB", (4, 2))
    assert picture.getpixel((3, 1)) == (255, 0, 0)
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_other_interpolations_are_used_where_they_are_asked_for() -> None:
    rows = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 3, 16, 16) / 16
    nearest = resize_and_crop(rows, 8, "nearest")
    assert torch.equal(nearest[0, 0, :, 0], rows[0, 0, 1::2, 0])  # of two equally near rows the lower one
    assert not torch.isin(resize_and_crop(rows, 8), rows).any()
    step = (rows > 0.5).float()
    assert not torch.equal(resize_and_crop(step, 6, "bicubic"), resize_and_crop(step, 6))
    assert resize_and_crop(step, 6, "bicubic").max() <= 1.0
