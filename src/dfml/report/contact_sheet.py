"""Contact sheets: images of many classes on one picture, one row per class, one block per classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfml.images import to_pil
from dfml.inversion.inverted import InvertedMember

_TILE = 64  # pixels per side: images are enlarged by the whole factor that comes closest
_GAP, _MARGIN = 3, 20
_CAPTION, _TEXT, _TITLE = 11, 13, 17  # font sizes
_MAX_LABEL_WIDTH = 160  # pixels
_ROWS_PER_BLOCK = 8  # classes of one zoo: small blocks fill several columns evenly
_INK, _FAINT, _PAPER = "#1c1c1c", "#6b6b6b", "#ffffff"


@dataclass(frozen=True)
class Row:
    """Images of one class.

    Attributes:
        label: Name of the class.
        images: Images in [0, 1]; values outside are clipped.
        captions: A short text below each image; empty: no captions.
    """

    label: str
    images: Float[Tensor, "images 3 height width"]
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """Rows below one heading, such as the classes of one classifier.

    Attributes:
        title: Heading, in large letters.
        rows: At least one row, each of one class.
        note: Text beside the heading, in grey.
    """

    title: str
    rows: Sequence[Row]
    note: str = ""


def render_contact_sheet(blocks: Sequence[Block]) -> Image.Image:
    """Draw blocks below each other, in several columns where one column would be much taller than wide.

    Args:
        blocks: At least one block.
    """
    labels = [_one_line(row.label) for block in blocks for row in block.rows]
    label_width = min(_MAX_LABEL_WIDTH, max(math.ceil(_font(_TEXT).getlength(label)) for label in labels) + 14)
    pictures = [_draw_block(block, label_width) for block in blocks]
    width = max(picture.width for picture in pictures)
    total = sum(picture.height for picture in pictures)
    columns = max(1, min(len(pictures), round(math.sqrt(total / width / 1.5))))
    per_column = math.ceil(len(pictures) / columns)
    stacks = [pictures[start : start + per_column] for start in range(0, len(pictures), per_column)]
    height = max(sum(picture.height for picture in stack) for stack in stacks)
    sheet = Image.new("RGB", (len(stacks) * width + _MARGIN, height + _MARGIN), _PAPER)
    for column, stack in enumerate(stacks):
        top = 0
        for picture in stack:
            sheet.paste(picture, (column * width, top))
            top += picture.height
    return sheet


def render_inversion(inverted: Sequence[InvertedMember]) -> Image.Image:
    """Draw the images recovered from some members: one block per member, one row per class with its first images."""
    return render_contact_sheet(
        [
            Block(
                title=each.name,
                note=_fidelity_note(each),
                rows=[Row(label, images) for label, images in zip(each.labels, each.images, strict=False)],
            )
            for each in inverted
        ]
    )


def render_shared(inverted: Sequence[InvertedMember]) -> Image.Image:
    """Draw the images of members that were inverted together: one block, one row per class of the zoo."""
    images = {
        name: of_class
        for each in inverted
        for name, of_class in zip(each.classes, each.images, strict=False)
        if len(of_class)
    }
    classes, fidelity = len({name for each in inverted for name in each.classes}), [each.fidelity for each in inverted]
    agreement = sum(each.agreement for each in fidelity) / len(fidelity)
    rest = f"; shown: {len(images)} of {classes} classes" if classes > len(images) else ""
    note = f"members predict the intended class for {agreement:.0%} of the images of their classes{rest}"
    rows = [Row(name, of_class) for name, of_class in sorted(images.items())]
    parts = [rows[start : start + _ROWS_PER_BLOCK] for start in range(0, len(rows), _ROWS_PER_BLOCK)]
    title = f"{len(inverted)} members" if len(inverted) > 1 else inverted[0].name
    return render_contact_sheet(
        [Block(title if number == 0 else "", part, note if number == 0 else "") for number, part in enumerate(parts)]
    )


def _fidelity_note(inverted: InvertedMember) -> str:
    """Percentages over all recovered images, also those that are not drawn; with others, over (image, member) pairs."""
    fidelity, classes = inverted.fidelity, len(inverted.labels)
    others = (
        f"; other members predict it for {fidelity.other_agreement:.0%}" if fidelity.other_agreement is not None else ""
    )
    rest = f"; shown: {len(inverted.images)} of {classes} classes" if classes > len(inverted.images) else ""
    return f"the member predicts the intended class for {fidelity.agreement:.0%}{others}{rest}"


def _draw_block(block: Block, label_width: int) -> Image.Image:
    side = _tile_side(block)
    heading = _draw_heading(block)
    width = _MARGIN + label_width + max(len(row.images) for row in block.rows) * (side + _GAP)
    captions = _CAPTION + _GAP if any(row.captions for row in block.rows) else 0
    height = heading.height + len(block.rows) * (side + captions + _GAP)
    picture = Image.new("RGB", (max(width, heading.width), height), _PAPER)
    picture.paste(heading, (0, 0))
    pen = ImageDraw.Draw(picture)
    for number, row in enumerate(block.rows):
        top = heading.height + number * (side + captions + _GAP)
        label = _shorten(row.label, label_width - 12)
        pen.text((_MARGIN, top + side / 2), label, fill=_INK, font=_font(_TEXT), anchor="lm")
        for column, image in enumerate(row.images):
            tile = to_pil(image).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (_MARGIN + label_width + column * (side + _GAP), top))
        for column, caption in enumerate(row.captions):
            left = _MARGIN + label_width + column * (side + _GAP)
            pen.text((left, top + side + 1), caption, fill=_FAINT, font=_font(_CAPTION), anchor="lt")
    return picture


def _draw_heading(block: Block) -> Image.Image:
    title, note = _one_line(block.title), _one_line(block.note)
    note_left = _MARGIN + math.ceil(_font(_TITLE).getlength(title)) + 12
    base = _MARGIN + _TITLE
    picture = Image.new("RGB", (note_left + math.ceil(_font(_TEXT).getlength(note)), base + 10), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, base), title, fill=_INK, font=_font(_TITLE), anchor="ls")
    pen.text((note_left, base), note, fill=_FAINT, font=_font(_TEXT), anchor="ls")
    return picture


def _tile_side(block: Block) -> int:
    size = block.rows[0].images.shape[-1]
    return int(size * max(1, round(_TILE / size)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shorten(text: str, width: int) -> str:
    """Put text on one line and cut it to a width in pixels."""
    whole = text = _one_line(text)
    while text and _font(_TEXT).getlength(text if text == whole else f"{text}...") > width:
        text = text[:-1]
    return text if text == whole else f"{text}..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that matplotlib ships: it covers Greek, Cyrillic and more, for labels in any language."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
