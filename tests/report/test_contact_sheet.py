"""A contact sheet shows every image, whatever its labels are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfml.images import to_pil
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from tests.factories import images


def _colour(red: float, green: float, blue: float, count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float32).view(1, 3, 1, 1).expand(count, 3, size, size)


def _area(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    counts = sheet.getcolors(maxcolors=sheet.width * sheet.height)
    assert counts is not None
    return sum(count for count, found in counts if found == colour)


def test_every_image_is_shown_enlarged_by_a_whole_factor() -> None:
    blocks = [
        Block("one", [Row("red", _colour(1, 0, 0)), Row("green", _colour(0, 1, 0, count=3))]),
        Block("two", [Row("blue", _colour(0, 0, 1, count=1, size=24))]),
    ]
    sheet = render_contact_sheet(blocks)
    assert _area(sheet, (255, 0, 0)) == 2 * 64 * 64
    assert _area(sheet, (0, 255, 0)) == 3 * 64 * 64
    assert _area(sheet, (0, 0, 255)) == 72 * 72


def test_large_images_are_not_reduced() -> None:
    sheet = render_contact_sheet([Block("one", [Row("red", _colour(1, 0, 0, count=1, size=200))])])
    assert _area(sheet, (255, 0, 0)) == 200 * 200


def test_values_are_clipped_not_wrapped() -> None:
    picture = to_pil(_colour(1.5, -0.5, 0.5)[0])
    assert picture.getpixel((0, 0)) == (255, 0, 128)


def test_many_blocks_are_arranged_in_columns() -> None:
    blocks = [Block(f"member {number}", [Row("class", images(4))] * 5) for number in range(24)]
    sheet = render_contact_sheet(blocks)
    assert 0.4 < sheet.width / sheet.height < 2.5


@pytest.mark.parametrize("text", ["", "x" * 400, "two\nlines", "λ ж 字 ﷽", "\x00\u202e"])
def test_any_text_is_a_label(text: str) -> None:
    sheet = render_contact_sheet([Block(text, [Row(text, _colour(1, 0, 0))], note=text)])
    assert _area(sheet, (255, 0, 0)) == 2 * 64 * 64


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_no_image_is_lost_in_any_arrangement(counts: list[list[int]]) -> None:
    blocks = [Block("block", [Row("row", _colour(1, 0, 1, count=count)) for count in rows]) for rows in counts]
    assert _area(render_contact_sheet(blocks), (255, 0, 255)) == sum(map(sum, counts)) * 64 * 64
