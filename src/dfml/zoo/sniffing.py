"""Recognises the kind of a file or folder of unknown origin by its content.

`sniff` reads the first bytes, the header of a safetensors file, the table of contents of a zip, and the opcodes of a
pickle. It loads no weights and runs nothing. The ending of a name only tells a text from a weight file whose download
failed. `dfml.zoo.candidates` applies it to all files below a folder.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from dfml.files import open_regular_file
from dfml.zoo.formats import CONFIG
from dfml.zoo.member_files import bounded_json
from dfml.zoo.pickle_contents import MAX_BYTES, PickleContents, printable, read_pickle_contents
from dfml.zoo.protobuf import is_onnx

_HEAD = 4096  # bytes at the beginning of a file that most kinds are recognised by
_MAX_HEADER = 100 * 2**20  # of a safetensors file, as in the library
_MAX_CONFIG = 10 * 2**20
_LFS_MARK = b"version https://git-lfs"
_WEIGHT_ENDINGS = frozenset(
    {".pth", ".pt", ".th", ".ckpt", ".bin", ".safetensors", ".onnx", ".pt2", ".pkl", ".pickle", ".h5", ".keras", ".tar"}
)


class Kind(Enum):
    """Kinds of files and folders; the values are their names in tables and messages."""

    TIMM = "timm folder"
    TRANSFORMERS = "transformers folder"
    SAFETENSORS = "safetensors"
    TENSORS = "pickled tensors"
    LIGHTNING = "Lightning checkpoint"
    ONNX = "ONNX"
    TORCHSCRIPT = "TorchScript"
    PT2 = "pt2"
    HDF5 = "HDF5 or Keras"
    TENSORFLOW = "TensorFlow"
    LFS_POINTER = "git-lfs pointer"
    PICKLED_MODULE = "whole pickled module"
    PICKLE = "other pickle"
    ARCHIVE = "archive"
    DAMAGED = "damaged"
    EMPTY = "empty"
    SPECIAL = "not a regular file"
    UNKNOWN = "not recognised"
    OTHER = "text or image"


READABLE = frozenset(
    {Kind.TIMM, Kind.TRANSFORMERS, Kind.SAFETENSORS, Kind.TENSORS, Kind.LIGHTNING, Kind.ONNX, Kind.OTHER}
)
"""Kinds whose `Found.reason` is None: classifiers that dfml can read, and files that hold no classifier at all."""


@dataclass(frozen=True)
class Found:
    """The result of `sniff`.

    Attributes:
        path: The file or folder.
        kind: Its kind.
        detail: More exact description, such as the class of a pickled module; may be empty.
        reason: Why no classifier can be read from it; None if one can, or if it is no model file at all.
        fix: What to do, if there is a reason; else empty.
    """

    path: Path
    kind: Kind
    detail: str = ""
    reason: str | None = None
    fix: str = ""

    @property
    def is_candidate(self) -> bool:
        """Whether it is, or was meant to be, a model; texts and images are not."""
        return self.kind is not Kind.OTHER


def sniff(path: Path) -> Found:
    """Recognise a file or folder by its content.

    It reads at most 16 MiB, or the header of a safetensors file (at most 100 MiB); waits for no FIFO or device; and
    runs nothing. It raises nothing: what cannot be read is a `Found` with a reason.

    Args:
        path: A file or folder; a link is followed.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _sniff_folder(path)
        if not stat.S_ISREG(mode):
            return Found(path, Kind.SPECIAL, "", "it is a FIFO, socket or device", "remove it from the folder")
        with open_regular_file(path) as file:
            return _sniff_file(path, file)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
        return Found(path, Kind.UNKNOWN, "", reason, "check the link and the permissions, or remove it")


def _sniff_folder(path: Path) -> Found:
    if (path / "saved_model.pb").is_file():
        return Found(path, Kind.TENSORFLOW, "SavedModel", "dfml does not read TensorFlow models", _to_onnx(path))
    try:
        with open_regular_file(path / CONFIG) as file:
            config = bounded_json(file.read(_MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        config = None
    if isinstance(config, dict) and isinstance(config.get("architecture"), str):
        return Found(path, Kind.TIMM, printable(config["architecture"]))
    if isinstance(config, dict) and (config.get("architectures") or config.get("model_type")):
        named = config.get("architectures")
        first = named[0] if isinstance(named, list) and named else config.get("model_type")
        return Found(path, Kind.TRANSFORMERS, printable(str(first)))
    reason = f"a folder whose {CONFIG} names no architecture"
    return Found(path, Kind.UNKNOWN, "folder", reason, "give the paths of the model files in it")


def _sniff_file(path: Path, file: BinaryIO) -> Found:
    head = file.read(_HEAD)
    if not head:
        return Found(path, Kind.EMPTY, "", "it is empty", "download it again")
    if head.startswith(_LFS_MARK):
        return Found(path, Kind.LFS_POINTER, "", "it is a git-lfs pointer, not the weights", "run `git lfs pull`")
    size = path.stat().st_size
    recognisers: tuple[Callable[[], Found | None], ...] = (
        lambda: _by_signature(path, head),
        lambda: _safetensors(path, file, head, size),
        lambda: _zip(path, file) if head.startswith(b"PK\x03\x04") else None,
        lambda: Found(path, Kind.ONNX) if is_onnx(file, size) else None,
        lambda: _pickle(path, file, head),
    )
    for recogniser in recognisers:
        file.seek(0)
        if found := recogniser():
            return found
    return _text_or_unknown(path, head)


_SIGNATURES: tuple[tuple[int, bytes, Kind, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", Kind.HDF5, ""),
    (4, b"TFL3", Kind.TENSORFLOW, "TensorFlow Lite"),
    (257, b"ustar", Kind.ARCHIVE, "tar"),
    (0, b"\x1f\x8b", Kind.ARCHIVE, "gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", Kind.ARCHIVE, "7z"),
    (0, b"Rar!", Kind.ARCHIVE, "rar"),
    (0, b"\x89PNG\r\n", Kind.OTHER, "image"),
    (0, b"\xff\xd8\xff", Kind.OTHER, "image"),
    (0, b"GIF8", Kind.OTHER, "image"),
    (8, b"WEBP", Kind.OTHER, "image"),
    (0, b"II*\x00", Kind.OTHER, "image"),
    (0, b"MM\x00*", Kind.OTHER, "image"),
    (0, b"%PDF", Kind.OTHER, "document"),
)


def _by_signature(path: Path, head: bytes) -> Found | None:
    for offset, signature, kind, detail in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            if kind is Kind.OTHER:
                return Found(path, kind, detail)
            if kind is Kind.ARCHIVE:
                return _archive(path, detail)
            return Found(path, kind, detail, "dfml does not read Keras or TensorFlow models", _to_onnx(path))
    return None


def _to_onnx(path: Path) -> str:
    return f"convert it with tf2onnx (a package of its own) to an ONNX file, and add that instead of {path.name}"


def _archive(path: Path, detail: str) -> Found:
    return Found(
        path, Kind.ARCHIVE, detail, f"it is an archive ({detail}), not a model", "unpack it, and add its files"
    )


def _safetensors(path: Path, file: BinaryIO, head: bytes, size: int) -> Found | None:
    length = int.from_bytes(head[:8], "little")
    if len(head) < 10 or head[8:9] != b"{" or not 2 <= length <= _MAX_HEADER:
        return None
    file.seek(8)
    try:
        header = bounded_json(file.read(length)) if length + 8 <= size else None
        ends = [entry["data_offsets"][1] for name, entry in (header or {}).items() if name != "__metadata__"]
        complete = header is not None and max(ends, default=0) + length + 8 == size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        complete = False
    if complete:
        return Found(path, Kind.SAFETENSORS)
    reason = "it is a safetensors file whose length does not fit its header: damaged or cut short"
    return Found(path, Kind.DAMAGED, "safetensors", reason, "download it again")


def _zip(path: Path, file: BinaryIO) -> Found:
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if any(name.startswith("code/") for name in names) or "constants.pkl" in names:
                return _runs_code(path, Kind.TORCHSCRIPT)
            if "archive_format" in names or any(name.endswith("exported_program.json") for name in archive.namelist()):
                return _runs_code(path, Kind.PT2)
            if "data.pkl" in names:
                with archive.open(names["data.pkl"]) as pickled:
                    return _describe(path, read_pickle_contents(pickled.read(MAX_BYTES)))
            if any(name.endswith("model.weights.h5") for name in archive.namelist()):
                return Found(path, Kind.HDF5, "Keras", "dfml does not read Keras models", _to_onnx(path))
            return _archive(path, "zip")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        reason = f"it begins as a zip and cannot be read as one ({printable(str(error))}): damaged or cut short"
        return Found(path, Kind.DAMAGED, "zip", reason, "download it again")


def _runs_code(path: Path, kind: Kind) -> Found:
    reason = f"{kind.value} files run code of their author when they are opened, so dfml does not open them"
    name = repr(path.name)
    load = f"torch.jit.load({name})" if kind is Kind.TORCHSCRIPT else f"torch.export.load({name}).module()"
    pin = "; or, if you trust it, pin it: name its SHA-256 in DFML_ALLOW_CODE and add it again (docs/formats.md)"
    return Found(path, kind, "", reason, _OWNER.format(load=load, out=_weights_name(path)) + pin)


_OWNER = "ask its owner to run: model = {load}; torch.save(model.state_dict(), {out!r})"


def _weights_name(path: Path) -> str:
    return printable(f"{path.stem}_state_dict.pth")


def _pickle(path: Path, file: BinaryIO, head: bytes) -> Found | None:
    # Protocols 0 and 1 have no signature: a text that happens to begin as such a pickle does not end as one.
    marked = head[0] == 0x80 and 2 <= head[1] <= 5 if len(head) > 1 else False
    if not marked and head[:1] not in (b"(", b"c", b"}", b"]"):
        return None
    try:
        contents = read_pickle_contents(file.read(MAX_BYTES))
    except ValueError:
        return None
    if not marked and not (contents.complete and contents.names):
        return None
    return _describe(path, contents)


def _describe(path: Path, contents: PickleContents) -> Found:
    """What a pickle holds: tensors, a whole network, or something else."""
    if not contents.complete:
        return Found(path, Kind.DAMAGED, "pickle", "its pickle is damaged or cut short", "download it again")
    if contents.is_module:
        named, key = contents.module_class or "a class", contents.module_key
        entry = f"[{key!r}]" if key else "" if contents.root in contents.foreign else "['KEY OF THE NETWORK']"
        load = f"torch.load({printable(path.name)!r}, map_location='cpu', weights_only=False){entry}"
        reason = f"it is a whole pickled object of the class {named}, whose loading runs code; dfml does not load it"
        fix = _OWNER.format(load=load, out=_weights_name(path))
        return Found(path, Kind.PICKLED_MODULE, named, reason, fix)
    if not any(name.endswith("Storage") or "_rebuild_" in name for name in contents.names):
        first = ", ".join(contents.names[:3]) or "plain values"
        reason = f"it is a pickle without tensors of torch ({first})"
        return Found(path, Kind.PICKLE, first, reason, "add the file that holds the weights")
    if "pytorch-lightning_version" in contents.keys:
        return Found(path, Kind.LIGHTNING)
    return Found(path, Kind.TENSORS)


def _text_or_unknown(path: Path, head: bytes) -> Found:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if len(head) - error.start < 4 and error.start else ""
    readable = text != "" and all(character.isprintable() or character in "\n\r\t\f" for character in text)
    if readable and path.suffix.lower() not in _WEIGHT_ENDINGS:
        return Found(path, Kind.OTHER, "text")
    if readable:
        page = text.lstrip().lower().startswith(("<!doctype", "<html"))
        reason = f"it is {'a web page' if page else 'text'}, not weights: a download that failed?"
        return Found(path, Kind.UNKNOWN, "text", reason, "download the file itself again")
    reason = "its content is of no known kind"
    return Found(path, Kind.UNKNOWN, "", reason, "remove it, or register a format for it (docs/new-format.md)")
