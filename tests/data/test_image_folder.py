from __future__ import annotations

import os
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfml.data.cache import cache_folder
from dfml.data.dataset import ImageDataset
from dfml.data.image_folder import open_images
from dfml.data.splits import CIFAR_FS, SPLITS
from dfml.errors import DataError, UsageError

from .images import encode, noise, plain, write_folder, write_zip

PLAIN = [("cat/2.png", plain(12)), ("cat/1.png", plain(11)), ("ant/1.png", plain(1)), ("bee/x.PNG", plain(5))]
SPLIT = [
    ("train/train/0.png", plain(1)),  # CIFAR-100 has a class of that name
    ("train/cat/0.png", plain(2)),
    ("val/dog/0.png", plain(3)),
    ("test/owl/0.png", plain(4)),
    ("test/owl/1.png", plain(5)),
]
CLUTTER = [
    ("readme.txt", b"hello"),
    (".hidden.png", b"not an image"),
    ("__MACOSX/cat/._1.png", b"not an image"),
    ("cat/Thumbs.db", b"not an image"),
    ("cat/.hidden/1.png", b"not an image"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def values(data: ImageDataset) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


def source(kind: str, folder: Path, files: list[tuple[str, bytes]], around: str = "") -> Path:
    files = [(around + name, content) for name, content in files]
    return write_zip(folder / "data.zip", files) if kind == "zip" else write_folder(folder / "data", files)


@pytest.mark.parametrize("around", ["", "everything/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_sorted_by_class_and_name(tmp_path: Path, cache: Path, kind: str, around: str) -> None:
    data = open_images(source(kind, tmp_path, PLAIN + CLUTTER, around), size=8, cache=cache)
    assert data.classes == ("ant", "bee", "cat")
    assert data.labels.tolist() == [0, 1, 2, 2]
    assert values(data) == [1, 5, 11, 12]
    assert data.images.dtype == torch.uint8
    assert data.name == "data"


@pytest.mark.parametrize("around", ["", "everything/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_split_is_chosen(tmp_path: Path, cache: Path, kind: str, around: str) -> None:
    path = source(kind, tmp_path, SPLIT, around)
    train, test = (open_images(path, split=split, size=8, cache=cache) for split in ("train", "test"))
    assert (train.classes, values(train), train.name) == (("cat", "train"), [2, 1], "data/train")
    assert (test.classes, values(test), test.name) == (("owl",), [4, 5], "data/test")


def test_any_size_and_kind_of_image_becomes_a_square(tmp_path: Path, cache: Path) -> None:
    files = [
        ("a/1.jpeg", encode(noise(50, 30), "JPEG")),
        ("a/2.webp", encode(noise(9, 70), "WEBP")),
        ("a/3.gif", encode(Image.new("P", (20, 20), 3), "GIF")),
        ("b/4.bmp", encode(Image.new("1", (33, 31)), "BMP")),
    ]
    data = open_images(write_folder(tmp_path / "data", files), size=16, cache=cache)
    assert data.images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (SPLIT, None, "expected a split to be named: .* has test, train, val"),
        (SPLIT, "dev", "expected images in split 'dev' of .*, which has test, train, val"),
        (SPLIT[:2], "val", "expected images in split 'val' of .*, which has train"),
        (PLAIN, "test", r"without split level; leave the split out, or name the official class split .*cifar-fs"),
        ([], None, "found none"),
        (CLUTTER, None, "found none"),
        ([*PLAIN, ("sheet.png", plain(0))], None, "same depth.* found sheet.png and ant/1.png"),
        ([("1.png", plain(0))], None, "at class/image, or at split/class/image .*, found 1.png"),
        ([("train/a/1.png", plain(0)), ("valid/a/1.png", plain(0))], "train", "splits named train, val, test"),
        ([("a/b/c/d/e/f/1.png", plain(0))], None, "found none"),
        ([("a/b/c/d/1.png", plain(0))], None, "at class/image, or"),
    ],
)
def test_another_layout_is_refused(
    tmp_path: Path, cache: Path, files: list[tuple[str, bytes]], split: str | None, message: str
) -> None:
    path = write_folder(tmp_path / "data", files)
    path.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        open_images(path, split=split, cache=cache)


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"at .*none, found nothing there; check the path"):
        open_images(tmp_path / "none", cache=cache)
    (tmp_path / "data.tar").write_bytes(b"tar")
    with pytest.raises(DataError, match="found a file that is neither"):
        open_images(tmp_path / "data.tar", cache=cache)
    with pytest.raises(UsageError, match="at least 1 pixel"):
        open_images(tmp_path, size=0, cache=cache)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_class_without_images_is_left_out_and_named(tmp_path: Path, cache: Path, kind: str) -> None:
    path = source(kind, tmp_path, [*PLAIN, ("dog/notes.txt", b"no pictures yet")])
    with pytest.warns(UserWarning, match="left out class folders without images: dog"):
        data = open_images(path, size=8, cache=cache)
    assert data.classes == ("ant", "bee", "cat")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_images_are_named_and_only_those_of_the_split_matter(tmp_path: Path, cache: Path, kind: str) -> None:
    path = source(kind, tmp_path, [*SPLIT, ("test/owl/2.png", b"damaged"), ("test/owl/3.png", plain(3)[:40])])
    with pytest.raises(DataError, match=r"cannot decode test/owl/2\.png: .*; 2 of 4 files"):
        open_images(path, split="test", size=8, cache=cache)
    assert not cache.exists()
    assert len(open_images(path, split="train", size=8, cache=cache)) == 2


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_second_call_decodes_nothing(tmp_path: Path, cache: Path, kind: str) -> None:
    path = source(kind, tmp_path, PLAIN)
    first = open_images(path, size=8, cache=cache)
    # Damage the pixels without a change of size or modification time.
    for file in [path] if kind == "zip" else sorted(path.rglob("*.png")):
        status = file.stat()
        file.write_bytes(bytes(60) + file.read_bytes()[60:])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = open_images(path, size=8, cache=cache)
    assert torch.equal(second.images, first.images)
    assert torch.equal(second.labels, first.labels)
    assert (second.classes, second.name) == (first.classes, first.name)


def test_writing_to_an_opened_data_set_leaves_the_cache_alone(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "data", PLAIN)
    open_images(path, size=8, cache=cache).images.fill_(99)
    assert values(open_images(path, size=8, cache=cache)) == [1, 5, 11, 12]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_changed_source_is_decoded_again_and_replaces_the_entry(tmp_path: Path, cache: Path, kind: str) -> None:
    path = source(kind, tmp_path, PLAIN)
    before = open_images(path, size=8, cache=cache)
    time.sleep(0.02)  # file systems have a limited time resolution
    changed = dict(PLAIN) | {"bee/x.PNG": plain(6), "dog/1.png": plain(20)}
    after = open_images(source(kind, tmp_path, list(changed.items())), size=8, cache=cache)
    assert values(after) == [1, 6, 11, 12, 20]
    assert values(before) == [1, 5, 11, 12]
    assert len(list(cache.iterdir())) == 1


def test_a_removed_or_renamed_file_is_noticed(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "data", PLAIN)
    open_images(path, size=8, cache=cache)
    (path / "cat/1.png").rename(path / "cat/3.png")
    assert values(open_images(path, size=8, cache=cache)) == [1, 5, 12, 11]
    (path / "ant/1.png").unlink()
    (path / "ant").rmdir()
    assert open_images(path, size=8, cache=cache).classes == ("bee", "cat")


def test_sizes_splits_and_paths_have_entries_of_their_own(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "data", SPLIT)
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    opened = [
        open_images(where, split=split, size=size, cache=cache)
        for _ in range(2)
        for where, split, size in [(path, "train", 8), (path, "train", 4), (path, "test", 8), (copy, "train", 8)]
    ]
    assert [(data.name, data.images.shape[-1]) for data in opened[4:]] == [
        ("data/train", 8), ("data/train", 4), ("data/test", 8), ("copy/train", 8),
    ]  # fmt: skip
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"x" * 3000, None])
def test_a_damaged_cache_entry_is_replaced(tmp_path: Path, cache: Path, damage: bytes | None) -> None:
    path = write_folder(tmp_path / "data", PLAIN)
    open_images(path, size=8, cache=cache)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-9] if damage is None else damage)
    assert values(open_images(path, size=8, cache=cache)) == [1, 5, 11, 12]
    assert list(cache.iterdir()) == [entry]


def test_concurrent_calls_agree(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "data", [(f"{n % 5}/{n}.png", plain(n)) for n in range(100)])
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_images(path, size=8, cache=cache), range(8)))
    assert all(torch.equal(data.images, opened[0].images) for data in opened)
    assert len(list(cache.iterdir())) == 1


def test_if_the_cache_cannot_be_written_images_are_in_memory(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", PLAIN)
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot write the image cache in .*; the images will be decoded again"):
        data = open_images(path, size=8, cache=tmp_path / "file")
    assert values(data) == [1, 5, 11, 12]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on the size of files are a POSIX matter")
    path = write_folder(tmp_path / "data", PLAIN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.warns(UserWarning, match="cannot write the image cache"):
            data = open_images(path, size=400, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert values(data) == [1, 5, 11, 12]
    assert list(cache.iterdir()) == []


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DFML_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "dfml"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dfml"
    monkeypatch.setenv("DFML_CACHE", str(tmp_path / "own"))
    assert open_images(write_folder(tmp_path / "data", PLAIN), size=4).classes == ("ant", "bee", "cat")
    assert len(list((tmp_path / "own").iterdir())) == 1


def test_an_official_split_divides_a_plain_folder(tmp_path: Path, cache: Path) -> None:
    names = [name for split in SPLITS for name in getattr(CIFAR_FS, split)]
    path = write_folder(tmp_path / "cifar100", [(f"{name}/0.png", plain(0, side=1)) for name in names])
    opened = {split: open_images(path, split=split, official="cifar-fs", size=1, cache=cache) for split in SPLITS}
    assert {split: data.classes for split, data in opened.items()} == {
        split: getattr(CIFAR_FS, split) for split in SPLITS
    }
    with pytest.raises(UsageError, match="needs a split: one of train, val, test"):
        open_images(path, official="cifar-fs", cache=cache)
    with pytest.raises(DataError, match="20 are missing"):
        open_images(path, split="test", official="miniimagenet", cache=cache)
    own = write_folder(tmp_path / "split", SPLIT)
    with pytest.raises(DataError, match="has splits of its own, test, train, val; leave the official"):
        open_images(own, split="test", official="cifar-fs", cache=cache)


def test_a_zip_is_never_unpacked_and_may_be_compressed(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("cat")
        archive.writestr("cat/1.png", plain(3))
        archive.writestr("../cat/2.png", plain(4))  # ignored because its first part is hidden; nothing is written there
    assert values(open_images(path, size=8, cache=cache)) == [3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cache", "data.zip"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"file_size": 1 << 31}, "claims to be 2147483648 bytes"),
        ({"flag_bits": 1}, "encrypted"),
        ({"CRC": 7}, "Bad CRC-32"),
        ({"compress_type": 99}, "not supported"),
    ],
)
def test_a_zip_member_that_cannot_be_read_is_named(
    tmp_path: Path, cache: Path, damage: dict[str, int], message: str
) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.png", plain(3))
        archive.writestr("cat/2.png", plain(4))
        for field, value in damage.items():
            setattr(archive.filelist[1], field, value)  # written to the directory at the end of the zip
    with pytest.raises(DataError, match=rf"cannot decode cat/2\.png: .*{message}.*1 of 2 files"):
        open_images(path, size=8, cache=cache)


def test_a_zip_with_a_damaged_directory_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write_zip(tmp_path / "data.zip", PLAIN)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02")] = 0
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot open .*; make the zip again"):
        open_images(path, cache=cache)


def test_progress_is_reported_while_decoding_only(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "data", PLAIN)
    steps: list[tuple[int, int]] = []
    for _ in range(2):
        open_images(path, size=8, cache=cache, progress=lambda *step: steps.append(step))
    assert steps == [(4, 4)]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "split", "shape", "classes"),
    [
        ("cub-100", "test", (1663, 3, 32, 32), 28),
        ("cifar-fs", "val", (9600, 3, 32, 32), 16),
    ],
)
def test_real_zips_open(shared: Path, cache: Path, name: str, split: str, shape: tuple[int, ...], classes: int) -> None:
    data = open_images(shared / f"{name}.zip", split=split, cache=cache)
    assert (data.images.shape, len(data.classes)) == (shape, classes)
    assert data.images[:100].float().std() > 20
