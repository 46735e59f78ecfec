"""A contact sheet: images of many classes on one picture, one row a class, one block a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_TILE = 64  # pixels that an image is enlarged to, as far as whole multiples allow
_GAP, _MARGIN = 3, 20
_TEXT, _TITLE = 13, 17  # font sizes
_LABEL_WIDTH = 150
_INK, _FAINT, _PAPER = "#1c1c1c", "#6b6b6b", "#ffffff"


@dataclass(frozen=True)
class Row:
    """Images of one class.

    Attributes:
        label: Of the class.
        images: In [0, 1]; what is outside is clipped.
    """

    label: str
    images: Float[Tensor, "images 3 height width"]


@dataclass(frozen=True)
class Block:
    """What belongs together below one heading: the classes of a classifier.

    Attributes:
        title: In large letters.
        note: Beside it, in faint ones.
        rows: One a class; at least one.
    """

    title: str
    rows: Sequence[Row]
    note: str = ""


def draw_contact_sheet(blocks: Sequence[Block]) -> Image.Image:
    """Blocks below each other, in several columns when they would make a tower.

    Args:
        blocks: At least one.
    """
    drawn = [_draw_block(block) for block in blocks]
    width = max(picture.width for picture in drawn)
    total = sum(picture.height for picture in drawn)
    columns = max(1, min(len(drawn), round(math.sqrt(total / width / 1.5))))
    a_column = math.ceil(len(drawn) / columns)
    stacks = [drawn[start : start + a_column] for start in range(0, len(drawn), a_column)]
    height = max(sum(picture.height for picture in stack) for stack in stacks)
    sheet = Image.new("RGB", (len(stacks) * width + _MARGIN, height + _MARGIN), _PAPER)
    for column, stack in enumerate(stacks):
        top = 0
        for picture in stack:
            sheet.paste(picture, (column * width, top))
            top += picture.height
    return sheet


def to_picture(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """One image in [0, 1] (clipped) as RGB bytes."""
    levels = (image.detach().cpu().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _draw_block(block: Block) -> Image.Image:
    side = _tile_side(block)
    count = max(len(row.images) for row in block.rows)
    head = _MARGIN + _TITLE + 10
    title = _shorten(block.title, _font(_TITLE), 10_000)
    text_width = math.ceil(_font(_TITLE).getlength(title) + _font(_TEXT).getlength(block.note)) + 12
    width = _MARGIN + max(_LABEL_WIDTH + count * (side + _GAP), text_width)
    picture = Image.new("RGB", (width, head + len(block.rows) * (side + _GAP)), _PAPER)
    pen = ImageDraw.Draw(picture)
    base = _MARGIN + _TITLE
    pen.text((_MARGIN, base), title, fill=_INK, font=_font(_TITLE), anchor="ls")
    after = _MARGIN + _font(_TITLE).getlength(title) + 12
    pen.text((after, base), block.note, fill=_FAINT, font=_font(_TEXT), anchor="ls")
    for number, row in enumerate(block.rows):
        top = head + number * (side + _GAP)
        label = _shorten(row.label, _font(_TEXT), _LABEL_WIDTH - 10)
        pen.text((_MARGIN, top + side / 2), label, fill=_INK, font=_font(_TEXT), anchor="lm")
        for place, image in enumerate(row.images):
            tile = to_picture(image).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (_MARGIN + _LABEL_WIDTH + place * (side + _GAP), top))
    return picture


def _tile_side(block: Block) -> int:
    size = block.rows[0].images.shape[-1]
    return int(size * max(1, round(_TILE / size)))


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, cut where it would not fit."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """A font with Greek, Cyrillic and more, for labels of any origin: the one that matplotlib ships."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
