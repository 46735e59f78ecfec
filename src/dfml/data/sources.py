"""Sources of image files: a folder, or a zip that is read without unpacking. Lists files and finds classes and splits.

Paths within a source are relative strings with forward slashes, not `Path`s: there may be a million of them.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from dfml.data.splits import SPLITS
from dfml.errors import DataError
from dfml.image_files import is_image

# The deepest valid path is wrapper/split/class/image; one level more is listed so that the error can name a file.
_DEEPEST = 5
# Bytes, more than any photograph has; a zip member that claims more is damaged or malicious.
_LARGEST_FILE = 1 << 29

Tree = dict[str, dict[str, list[str]]]
"""Split -> class -> paths of its images; the only split is "" where there is no split level."""


class Source(ABC):
    """A folder or zip of image files.

    Args:
        path: Absolute path of the folder or zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def fingerprint(self) -> str:
        """A string that changes when any image is added, removed, renamed or rewritten."""

    @abstractmethod
    def images(self) -> list[str]:
        """Paths of all image files that are not hidden."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Paths of all folders that are not hidden."""

    @abstractmethod
    def read(self, file: str) -> bytes:
        """Read the bytes of one image file; several threads may call this.

        Raises:
            DataError: If they cannot be read. The message is the reason, without the file's name.
        """


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open the folder or zip at `path`.

    Raises:
        DataError: If there is neither.
    """
    absolute = Path(path).absolute()
    if os.path.isdir(absolute):
        return _Folder(absolute)
    if zipfile.is_zipfile(absolute):
        return _Zip(absolute)
    found = "a file that is neither, or may not be read" if os.path.exists(absolute) else "nothing there"
    raise DataError(f"expected an image folder or a zip of one at {path}, found {found}; check the path")


def arrange(source: Source) -> Tree:
    """Group a source's images by split and class, each level sorted by name.

    Class folders without images are included, with no files. One folder around everything is skipped. Folders named
    `train`, `val` and `test` are splits only if class folders are in them.

    Raises:
        DataError: If there are no images, or they are neither at class/image nor at split/class/image.
    """
    images = sorted(source.images())
    if not images:
        raise DataError(f"expected images at class/image or split/class/image in {source.path}, found none")
    wrapper, has_splits = _layout(source.path, images)

    def split_and_class(path: str) -> tuple[str, str]:
        split, name = path.removeprefix(wrapper).split("/")[:2] if has_splits else ("", path.removeprefix(wrapper))
        return split, name.split("/")[0]

    tree: Tree = {}
    class_depth = wrapper.count("/") + has_splits
    for folder in sorted(source.folders()):
        if folder.startswith(wrapper) and folder.count("/") == class_depth:
            split, name = split_and_class(folder)
            if split in ("", *SPLITS):
                tree.setdefault(split, {})[name] = []
    for image in images:
        split, name = split_and_class(image)
        tree[split][name].append(image)
    return tree


def _layout(path: Path, images: list[str]) -> tuple[str, bool]:
    """The folder around everything ("" or "name/"), and whether there is a split level."""
    shallow, deep = (choose(images, key=lambda image: image.count("/")) for choose in (min, max))
    depth = deep.count("/")
    if shallow.count("/") != depth:
        raise DataError(
            f"expected every image of {path} at the same depth, class/image or split/class/image, "
            f"found {shallow} and {deep}; move or remove one kind"
        )
    levels = [{image.split("/")[level] for image in images} for level in range(min(depth, 2))]
    if depth == 1:
        return "", False
    if depth == 2 and levels[0] <= set(SPLITS):
        return "", True
    if depth in (2, 3) and len(levels[0]) == 1 and (depth == 2 or levels[1] <= set(SPLITS)):
        return f"{levels[0].pop()}/", depth == 3
    raise DataError(
        f"expected the images of {path} at class/image, or at split/class/image with splits named "
        f"{', '.join(SPLITS)}, found {images[0]}; rename or move the folders"
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


class _Folder(Source):
    @cached_property
    def _entries(self) -> list[tuple[str, int, int]]:
        """Relative path, size in bytes and modification time of images and folders; folder paths end with a slash."""
        try:
            return sorted(_walk(self.path, ""))
        except OSError as error:
            raise DataError(f"cannot list {error.filename}: {error.strerror}; repair or remove it") from error

    def fingerprint(self) -> str:
        return hashlib.sha256(os.fsencode(repr(self._entries))).hexdigest()

    def images(self) -> list[str]:
        return [name for name, _, _ in self._entries if not name.endswith("/")]

    def folders(self) -> list[str]:
        return [name.removesuffix("/") for name, _, _ in self._entries if name.endswith("/")]

    def read(self, file: str) -> bytes:
        try:
            return (self.path / file).read_bytes()
        except OSError as error:
            raise DataError(str(error.strerror)) from error


def _walk(folder: Path | str, prefix: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield f"{prefix}{entry.name}/", 0, 0
                if prefix.count("/") + 1 < _DEEPEST:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif is_image(entry.name):
                status = entry.stat()
                yield prefix + entry.name, status.st_size, status.st_mtime_ns


class _Zip(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"cannot open {self.path}: {error}; make the zip again") from error

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        members = {info.filename: info for info in self._archive.infolist()}
        return {name: info for name, info in members.items() if not any(map(_is_hidden, name.split("/")))}

    def fingerprint(self) -> str:
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def images(self) -> list[str]:
        return [name for name in self._members if is_image(name)]

    def folders(self) -> list[str]:
        # Zips need not have entries for folders.
        parents = {name.rpartition("/")[0] for name in self._members} - {""}
        return list(parents | {outer for folder in parents for outer in _parents(folder)})

    def read(self, file: str) -> bytes:
        info = self._members[file]
        if info.file_size > _LARGEST_FILE:
            raise DataError(f"it claims to be {info.file_size} bytes long")
        try:
            with self._lock:
                return self._archive.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:  # RuntimeError: a password
            raise DataError(str(error) or type(error).__name__) from error


def _parents(folder: str) -> Iterator[str]:
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        yield folder
