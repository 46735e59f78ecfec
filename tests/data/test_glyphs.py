from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from dfml.data.glyphs import CHARACTERS, FONTS, class_name, font_folder, glyphs
from dfml.errors import UsageError

ALL = CHARACTERS["train"] + CHARACTERS["test"]


@pytest.mark.parametrize(("split", "classes"), [("train", 43), ("test", 35)])
def test_every_class_has_the_same_number_of_images(split: str, classes: int) -> None:
    data = glyphs(split, per_class=3, size=20)
    assert data.images.shape == (3 * classes, 3, 20, 20)
    assert data.name == f"glyphs/{split}"
    assert list(data.classes) == sorted(data.classes)
    assert data.labels.tolist() == sorted([*range(classes)] * 3)


def test_more_images_do_not_change_the_first_ones() -> None:
    few, many = (glyphs("test", per_class=count, seed=5) for count in (2, 7))
    shape = (len(few.classes), -1, 3, 32, 32)
    assert torch.equal(many.images.view(shape)[:, :2], few.images.view(shape))


def test_images_differ_between_seeds_and_numbers() -> None:
    first, again, other = (glyphs("train", per_class=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    pictures = torch.cat([first.images, other.images]).flatten(1)
    assert len(pictures.unique(dim=0)) == len(pictures)


def test_glyphs_stand_out_in_both_polarities() -> None:
    images = glyphs("train", per_class=10).images.float()
    border = torch.cat([images[..., 0, :], images[..., -1, :]], dim=-1).median(dim=-1).values
    contrast = (images - border[..., None, None]).abs().amax(dim=(1, 2, 3))
    assert contrast.min() > 25
    brighter = (images.mean(dim=(1, 2, 3)) > border.mean(dim=1)).float().mean()
    assert 0.4 < brighter < 0.6


def test_class_names_are_usable_as_folders() -> None:
    assert [class_name(character) for character in "aA2λЖ"] == [
        "latin_a",
        "latin_capital_a",
        "digit_two",
        "greek_lambda",
        "cyrillic_capital_zhe",
    ]
    assert class_name("Є") == "cyrillic_capital_ukrainian_ie"
    names = [class_name(character) for character in ALL]
    assert len(set(names)) == len(ALL)
    assert all(name.isidentifier() and name == name.lower() for name in names)
    kinds = {split: {class_name(character).split("_")[0] for character in CHARACTERS[split]} for split in CHARACTERS}
    assert kinds == {"train": {"latin", "digit"}, "test": {"greek", "cyrillic"}}


@pytest.mark.parametrize("font", FONTS)
def test_every_font_has_every_character(font: str) -> None:
    with TTFont(font_folder() / font) as file:
        assert {ord(character) for character in ALL} <= set(file.getBestCmap())


def test_no_two_characters_look_alike() -> None:
    # Correlation of blurred shapes of the same size: that of O and Greek Omicron or Cyrillic O is 1.
    correlation = likeness(ALL)
    for one, other in combinations(range(len(ALL)), 2):
        assert correlation[one, other] < 0.95, ALL[one] + ALL[other]
    for pair in ("cC", "sS", "A\N{GREEK CAPITAL LETTER ALPHA}", "H\N{CYRILLIC CAPITAL LETTER EN}"):
        assert likeness(pair)[0, 1] > 0.95, pair


def likeness(characters: str) -> np.ndarray:
    """Median over the fonts of the correlation between shapes, for each pair of characters."""
    per_font = []
    for name in FONTS:
        font = ImageFont.truetype(font_folder() / name, 48, layout_engine=ImageFont.Layout.BASIC)
        shapes = np.stack([shape(font, each) for each in characters])
        per_font.append(shapes @ shapes.T)
    return np.median(per_font, axis=0)


def shape(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    page = Image.new("L", (144, 144))
    ImageDraw.Draw(page).text((48, 48), character, fill=255, font=font)
    ink = page.crop(page.getbbox())
    scale = 40 / max(ink.size)
    ink = ink.resize([max(1, round(scale * side)) for side in ink.size])
    frame = Image.new("L", (56, 56))
    frame.paste(ink, ((56 - ink.width) // 2, (56 - ink.height) // 2))
    pixels = np.asarray(frame.filter(ImageFilter.GaussianBlur(2)), dtype=float).ravel()
    return pixels / np.linalg.norm(pixels)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="glyph split out of train, test, found 'val'"):
        glyphs("val")
    with pytest.raises(UsageError, match="at least one glyph per class, found 0"):
        glyphs("train", per_class=0)
    with pytest.raises(UsageError, match="at least 1 pixel, found 0"):
        glyphs("train", size=0)
