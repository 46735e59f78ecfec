"""One image or several, in every form in which people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dfml.errors import DataError
from dfml.image_inputs import ImageBatch
from tests.data.images import noise

PIXELS = noise(12, 8)  # 12 wide, 8 high


def expected(size: int = 8) -> torch.Tensor:
    return torch.from_numpy(PIXELS[:, 2:10].copy()).permute(2, 0, 1) / 255


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": lambda path: str(path),
    "pillow": lambda path: Image.fromarray(PIXELS),
    "array": lambda path: PIXELS,
    "floats": lambda path: PIXELS / 255,
    "tensor": lambda path: torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@every_form
def test_every_form_has_the_same_pixels(form: str, image: Path) -> None:
    given = FORMS[form](image)
    for images, single in ((given, True), ([given], False), ((given, given), False)):
        batch = ImageBatch(images)
        assert batch.single == single
        read = batch.read(8)
        assert read.shape == (len(batch), 3, 8, 8)
        assert read.dtype == torch.float32
        torch.testing.assert_close(read[-1], expected())


def test_a_sequence_may_mix_forms_and_sizes(image: Path) -> None:
    mixed = [image, noise(5, 30), torch.rand(3, 9, 9), Image.new("L", (4, 4), 255), np.full((6, 7), 255, np.uint8)]
    read = ImageBatch(mixed).read(8)
    assert read.shape == (5, 3, 8, 8)
    assert bool((read[3:] == 1).all())  # grey images are white in all channels


def test_arrays_and_tensors_of_several_images() -> None:
    many = np.stack([PIXELS, PIXELS])
    for images in (many, torch.from_numpy(many).permute(0, 3, 1, 2), many[..., :1]):
        batch = ImageBatch(images)
        assert (batch.single, len(batch)) == (False, 2)
        assert batch.read(8).shape == (2, 3, 8, 8)
    assert [len(part) for part in ImageBatch(np.repeat(many, 3, axis=0)).batches(4, 8)] == [4, 2]


def test_images_are_read_batch_by_batch(image: Path, tmp_path: Path) -> None:
    batches = ImageBatch([image, tmp_path / "missing.png"]).batches(1, 8)
    next(batches)
    with pytest.raises(DataError, match=r"cannot read .*missing\.png"):
        next(batches)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image, found an empty sequence"),
        ([None], "a path, an image of Pillow, an array or a tensor, found NoneType"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(height, width, 3\) as array, found \(3, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"shape \(3, height, width\) as tensor, found \(8, 8, 3\)"),
        (torch.zeros(3, 0, 8), r"found \(3, 0, 8\)"),
        (torch.zeros(5), "found"),
        (PIXELS.astype(np.int64), r"bytes \(uint8\) or floats in \[0, 1\], found torch.int64"),
        (PIXELS.astype(np.float32), r"floats in \[0, 1\], found values from .* divide bytes by 255"),
        (torch.full((3, 4, 4), float("nan")), r"floats in \[0, 1\], found values from nan"),
        ("missing.png", "cannot read missing.png"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageBatch(images).read(8)
