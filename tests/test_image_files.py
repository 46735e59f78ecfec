from __future__ import annotations

import io
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from dfml.errors import DataError, UsageError
from dfml.image_files import UndecodableError, check_size, decode, decode_all
from tests.data.images import encode, huge_png, noise, plain


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_resizes_the_short_side_and_crops_the_centre(width: int, height: int, size: int) -> None:
    pixels = noise(width, height)
    reference = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(Image.fromarray(pixels))
    decoded = decode(encode(pixels), size)
    assert decoded.shape == (3, size, size)
    difference = decoded.astype(int) - np.asarray(reference).transpose(2, 0, 1)
    assert abs(difference).max() <= 1  # the reference also rounds between resizing and cropping


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    square, wide = noise(16, 16), noise(22, 16)
    assert np.array_equal(decode(encode(square), 16), square.transpose(2, 0, 1))
    assert np.array_equal(decode(encode(wide), 16), wide[:, 3:19].transpose(2, 0, 1))


def test_a_very_long_image_is_not_resized_as_a_whole() -> None:
    assert decode(encode(noise(50_000, 1)), 64).shape == (3, 64, 64)


@pytest.mark.parametrize(("suffix", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {})])
def test_lossless_formats_give_the_same_pixels(suffix: str, options: dict[str, bool]) -> None:
    pixels = noise(12, 12)
    assert np.array_equal(decode(encode(pixels, suffix, **options), 12), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode)
    suffix = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert decode(encode(image, suffix), 6).min() >= 254


def test_gif_and_jpeg_are_read() -> None:
    red, blue = (Image.new("RGB", (6, 6), colour) for colour in ("red", "blue"))
    animation = encode(red, "GIF", save_all=True, append_images=[blue])
    assert decode(animation, 6)[:, 0, 0].tolist() == [255, 0, 0]
    assert np.abs(decode(encode(red, "JPEG"), 6)[:, 0, 0].astype(int) - [255, 0, 0]).max() < 4


@given(st.integers(0, 65535))
def test_sixteen_bits_are_scaled_to_eight(value: int) -> None:
    decoded = decode(encode(np.full((4, 4), value, dtype=np.uint16)), 4)
    assert (decoded == round(value / 257)).all()


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 2, 4))
    decoded = decode(encode(image), 4)
    assert decoded[:, 0, 0].tolist() == [0, 0, 255]
    assert decoded[:, 0, 3].tolist() == [255, 255, 255]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert decode(encode(palette, transparency=1), 4)[:, 0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied() -> None:
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    decoded = decode(encode(pixels, "PNG", exif=exif), 8)
    assert np.array_equal(decoded.transpose(1, 2, 0), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a JPEG"),
        (plain(3)[:48], "truncated"),
        (huge_png(20_000), "too many pixels"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_unusable_bytes_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        decode(data, 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as in a user's process
def test_an_image_that_pillow_only_warns_of_is_refused() -> None:
    side = math.isqrt(Image.MAX_IMAGE_PIXELS) + 1  # Pillow itself refuses twice as many pixels
    with pytest.raises(UndecodableError, match=f"too many pixels .* found {side} x {side}"):
        decode(huge_png(side), 8)


@pytest.mark.filterwarnings("ignore")  # Pillow may warn before it raises
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]), st.data())
def test_damaged_bytes_raise_no_other_error(suffix: str, draw: st.DataObject) -> None:
    data = bytearray(encode(noise(9, 7), suffix))
    for position in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        data[position] = draw.draw(st.integers(0, 255))
    with suppress(UndecodableError):
        assert decode(bytes(data[: draw.draw(st.integers(1, len(data)))]), 5).shape == (3, 5, 5)


def test_many_files_are_returned_in_order_with_progress() -> None:
    steps: list[tuple[int, int]] = []
    files = [f"{number}.png" for number in range(200)]
    images = decode_all(lambda file: plain(int(Path(file).stem)), files, 4, lambda *step: steps.append(step))
    assert images[:, 0, 0, 0].tolist() == list(range(200))
    assert steps == [(64, 200), (128, 200), (192, 200), (200, 200)]


def test_the_first_undecodable_file_and_their_number_are_named() -> None:
    bad = {70, 150, 199}
    files = [f"{number}.png" for number in range(200)]
    with pytest.raises(DataError, match=r"cannot decode 70\.png: not a JPEG.*; 3 of 200 files cannot be decoded"):
        decode_all(lambda file: b"" if int(Path(file).stem) in bad else plain(0), files, 4)


def test_a_size_of_zero_is_refused() -> None:
    check_size(1)
    with pytest.raises(UsageError, match="at least 1 pixel, found 0"):
        check_size(0)


def test_encode_helper_writes_what_pillow_reads() -> None:
    assert Image.open(io.BytesIO(plain(7))).getpixel((0, 0)) == (7, 7, 7)
