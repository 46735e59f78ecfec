"""Glyphs: a labelled image set that is rendered, not downloaded, for the quickstart and for tests.

Letters from the fonts that matplotlib ships, with random rotation, shear, scale, translation, stroke width and colours.
Training classes are Latin letters and digits, test classes Greek and Cyrillic letters. Among characters that differ
only in size (o, O and 0; c and C; Greek and Latin A), one at most is used.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from dfml.data.dataset import ImageDataset
from dfml.errors import DataError, UsageError
from dfml.image_files import check_size
from dfml.seeds import rng

Mask = npt.NDArray[np.uint8]
Draws = npt.NDArray[np.float64]

# Excluded: I i l 1 (bars), 0 o (rings), j k p s u v w x y z c (shapes of their capitals), g (like 9), h (like b, n).
LATIN = "ABCDEFGHJKLMNOPQRSTUVWXYZabdefmnqrt"
DIGITS = "23456789"
# Excluded: shapes of Latin letters and digits (A B E Z H I K M N O P T Y X k n o p t u v x), shapes close to them
# (delta to 6, Theta to O, theta to 8, Lambda to A, iota to i, pi to n), and one of each pair of similar letters (phi,
# psi and their capitals; final sigma and zeta).
GREEK = "ΓΔΞΠΣΦΨΩαβγεζηλμξσω"
# Capitals only: in italics, small letters have other shapes. Excluded: shapes of Latin letters and digits (A B E K M H
# O P C T Y X S I J), shapes close to them (Be to 6, Ze to 3, I to H, soft sign to b), shapes of Greek letters (Gamma,
# Pi, Phi), and one of each pair of similar letters (Shcha and Sha, Dzhe and Tse, Tshe and Dje, Yat and hard sign).
CYRILLIC = "ДЖЙЛЦЧШЪЫЭЮЯЂЉЊЄ"
CHARACTERS: dict[str, str] = {"train": LATIN + DIGITS, "test": GREEK + CYRILLIC}

FONTS = tuple(
    f"{family}{style}.ttf"
    for family, styles in (
        ("DejaVuSans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("DejaVuSansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("DejaVuSerif", ("", "-Bold", "-Italic", "-BoldItalic")),
        ("STIXGeneral", ("", "Bol", "Italic", "BolIta")),
    )
    for style in styles
)

# Random numbers per image. Append further ones at the end: the existing ones keep their meaning.
_DRAWS = 16
_STROKES = 3  # stroke widths: 0, 1, 2
_ROTATION = np.deg2rad(15)
_SHEAR = 0.2
_FILL = (0.6, 0.9)  # range of the glyph's longer side, as a fraction of the image's side
_SHIFT = 0.08  # largest translation, as a fraction of the image's side
_CONTRAST = (0.3, 0.9)  # range of the contrast before tinting; 1 is black on white
_TINT = 0.15  # largest change of a colour channel; 1 is the full range
_MAX_EM = 256  # largest font size in pixels; glyphs of larger images are enlarged


def glyphs(split: str, *, per_class: int = 100, size: int = 32, seed: int = 0) -> ImageDataset:
    """Render the glyphs of one split.

    An image depends only on the seed, the split, its class and its number: a larger `per_class` adds images and changes
    none. Other versions of the fonts or of FreeType may change single pixels.

    Args:
        split: "train" (Latin letters and digits) or "test" (Greek and Cyrillic letters).
        per_class: Images per class, at least 1.
        size: Side length in pixels, at least 1.
        seed: Seed of all random numbers, at least 0.

    Raises:
        UsageError: If there is no such split, or a number is too small.
        DataError: If matplotlib's installation lacks the fonts.
    """
    if split not in CHARACTERS:
        raise UsageError(f"expected a glyph split out of {', '.join(CHARACTERS)}, found {split!r}")
    if per_class < 1:
        raise UsageError(f"expected at least one glyph per class, found {per_class}")
    check_size(size)
    named = sorted((class_name(character), character) for character in CHARACTERS[split])
    fonts = _load_fonts(min(2 * size, _MAX_EM))
    images = np.empty((len(named), per_class, 3, size, size), dtype=np.uint8)
    for label, (name, character) in enumerate(named):
        draws = np.stack([rng(seed, "glyphs", split, name, number).random(_DRAWS) for number in range(per_class)])
        images[label] = _paint(_render_masks(character, fonts, draws, size), draws)
    return ImageDataset(
        images=torch.from_numpy(images).flatten(0, 1),
        labels=torch.arange(len(named)).repeat_interleave(per_class),
        classes=tuple(name for name, _ in named),
        name=f"glyphs/{split}",
    )


def class_name(character: str) -> str:
    """Class name of a character, also usable as a folder name: `latin_a`, `latin_capital_a`, `digit_two`."""
    name = unicodedata.name(character).lower().replace("lamda", "lambda")
    return name.replace("small letter ", "").replace("letter ", "").replace(" ", "_").replace("-", "_")


def font_folder() -> Path:
    """The folder of the fonts that matplotlib ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _load_fonts(em: int) -> list[ImageFont.FreeTypeFont]:
    try:
        # Pillow's basic layout engine: the other one is not installed on every machine.
        return [ImageFont.truetype(font_folder() / name, em, layout_engine=ImageFont.Layout.BASIC) for name in FONTS]
    except OSError as error:
        raise DataError(f"expected matplotlib's fonts in {font_folder()}: {error}; install matplotlib again") from error


def _render_masks(character: str, fonts: list[ImageFont.FreeTypeFont], draws: Draws, size: int) -> Mask:
    """Coverage masks of shape (images, size, size), one glyph each, rendered at twice the size and reduced."""
    inks: dict[tuple[int, int], Image.Image] = {}
    masks = np.empty((len(draws), size, size), dtype=np.uint8)
    for mask, draw in zip(masks, draws, strict=True):
        style = int(draw[0] * len(fonts)), int(draw[1] * _STROKES)
        if style not in inks:
            inks[style] = _ink(fonts[style[0]], character, style[1])
        ink = inks[style]
        transform = _inverse_affine(draw, ink.size, 2 * size)
        rendered = ink.transform((2 * size, 2 * size), Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)
        mask[:] = np.asarray(rendered.reduce(2))
    return masks


def _ink(font: ImageFont.FreeTypeFont, character: str, stroke: int) -> Image.Image:
    """The glyph in black and white, cropped; each line is `stroke`/64 of the font size wider on both sides."""
    canvas = Image.new("L", (3 * int(font.size), 3 * int(font.size)))
    pen, width = ImageDraw.Draw(canvas), round(stroke * font.size / 64)
    pen.text((font.size, font.size), character, fill=255, font=font, stroke_width=width)
    return canvas.crop(canvas.getbbox())


def _inverse_affine(draw: Draws, ink: tuple[int, int], side: int) -> tuple[float, float, float, float, float, float]:
    """Coefficients for Pillow of the affine map from pixels of the canvas to pixels of the glyph.

    The glyph's longer side covers a random fraction of the canvas; rotation and shear are about the glyph's centre.

    Args:
        draw: Random numbers of the image, in [0, 1).
        ink: Width and height of the glyph in pixels.
        side: Side length of the canvas in pixels.
    """
    angle, shear, shift_x, shift_y = (2 * draw[2:6] - 1) * (_ROTATION, _SHEAR, _SHIFT * side, _SHIFT * side)
    scale = side * (_FILL[0] + draw[6] * (_FILL[1] - _FILL[0])) / max(ink)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b, c, d = np.linalg.inv(scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])).ravel()
    x, y = side / 2 + shift_x, side / 2 + shift_y
    return a, b, ink[0] / 2 - a * x - b * y, c, d, ink[1] / 2 - c * x - d * y


def _paint(masks: Mask, draws: Draws) -> Mask:
    """Colour masks of shape (images, size, size): bright on dark or dark on bright, both slightly tinted."""
    contrast = _CONTRAST[0] + draws[:, 7] * (_CONTRAST[1] - _CONTRAST[0])
    dark = draws[:, 8] * (1 - contrast)
    inverted = draws[:, 9] < 0.5
    tints = _TINT * (2 * draws[:, 10:16] - 1)
    front = (dark + np.where(inverted, 0, contrast))[:, None] + tints[:, :3]
    back = (dark + np.where(inverted, contrast, 0))[:, None] + tints[:, 3:]
    ink, paper = (colour.clip(0, 1).astype(np.float32)[:, :, None, None] for colour in (front, back))
    return np.rint(255 * paper + (ink - paper) * masks[:, None]).astype(np.uint8)
