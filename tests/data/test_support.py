from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml.data.image_folder import open_images
from dfml.data.support import read_image, read_support
from dfml.errors import DataError, UsageError

from .images import encode, noise, plain, write_folder, write_zip

FILES = [("dog/b.png", plain(20)), ("dog/a.png", plain(10)), ("cat/only.png", plain(255)), ("dog/c.png", plain(30))]


def test_an_uneven_support_set_is_read(tmp_path: Path) -> None:
    images, labels, classes = read_support(write_folder(tmp_path, FILES), 8)
    assert classes == ("cat", "dog")
    assert labels.tolist() == [0, 1, 1, 1]
    assert torch.equal(images[:, 0, 0, 0], torch.tensor([255, 10, 20, 30]) / 255)
    from_zip, _, _ = read_support(write_zip(tmp_path / "support.zip", FILES), 8)
    assert torch.equal(from_zip, images)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("cat/a.png", plain(1))], "at least two class folders in .*, found only cat"),
        ([*FILES, ("bird/notes.txt", b"none yet")], "at least one image per class in .*, found none for bird"),
        (
            [("train/cat/a.png", plain(1)), ("test/dog/a.png", plain(1))],
            "found splits: test, train; give the folder of one",
        ),
        ([*FILES, ("dog/broken.jpg", b"broken")], "cannot decode dog/broken.jpg.*1 of 5"),
        ([("a.png", plain(1))], "at class/image"),
        ([("dog/notes.txt", b"")], "found none"),
    ],
)
def test_another_folder_than_a_support_set_is_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_support(write_folder(tmp_path, files), 8)


def test_a_single_image_has_the_same_pixels_as_in_a_data_set(tmp_path: Path) -> None:
    file = write_folder(tmp_path / "data", [("cat/a.jpg", encode(noise(40, 30), "JPEG"))]) / "cat/a.jpg"
    image = read_image(file, 12)
    stored = open_images(tmp_path / "data", size=12, cache=tmp_path / "cache").images[0]
    assert torch.equal(image, stored.float() / 255)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.png: No such file"):
        read_image(tmp_path / "none.png", 8)
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        read_image(tmp_path, 8)
    write_folder(tmp_path, [("bad.png", b"bad")])
    with pytest.raises(DataError, match=r"cannot decode .*bad\.png: not a JPEG"):
        read_image(tmp_path / "bad.png", 8)
    with pytest.raises(UsageError, match="at least 1 pixel"):
        read_image(tmp_path / "bad.png", 0)
