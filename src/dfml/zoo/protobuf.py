"""Recognition of ONNX files: the outermost fields of a protobuf message, without a protobuf library."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import BinaryIO

_VARINT, _BYTES = 0, 2  # wire types
_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14  # fields of onnx.ModelProto (onnx.proto)
_KNOWN = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, 7: _BYTES, 8: _BYTES, 14: _BYTES}
_LATER = range(15, 100)  # training information, functions, configurations: bytes
_MAX_FIELDS = 10_000
_MAX_METADATA = 64 * 2**20  # bytes of one entry


def is_onnx(file: BinaryIO | io.BytesIO, size: int) -> bool:
    """Whether a file is an ONNX model: a message with a version and a graph, all of whose fields are known.

    Args:
        file: Opened for reading, at its first byte. The graph is skipped, not read.
        size: Length of the file in bytes.
    """
    try:
        return {_IR_VERSION, _GRAPH} <= {number for number, _ in _fields(file, size, _KNOWN)}
    except ValueError:
        return False


def read_onnx_metadata(file: BinaryIO | io.BytesIO, size: int) -> dict[str, str]:
    """The metadata of an ONNX model (`metadata_props`), without the rest of the file; empty if it is none.

    Args:
        file: See `is_onnx`.
        size: See `is_onnx`.
    """
    found: dict[str, str] = {}
    try:
        for number, length in _fields(file, size, _KNOWN):
            if number == _METADATA and length <= _MAX_METADATA:
                content = file.read(length)
                entry = io.BytesIO(content)
                pair = {
                    key: entry.read(part).decode("utf-8")
                    for key, part in _fields(entry, length, {1: _BYTES, 2: _BYTES}, later=False)
                }
                found[pair.get(1, "")] = pair.get(2, "")
    except ValueError:
        return {}
    return found


def _fields(
    file: BinaryIO | io.BytesIO, size: int, known: Mapping[int, int], *, later: bool = True
) -> Iterator[tuple[int, int]]:
    """Yield the number of each field and the length of its content, which the caller may read; the rest is skipped.

    Raises:
        ValueError: If a field is unknown or cut short, or there are too many.
    """
    for _ in range(_MAX_FIELDS):
        if file.tell() == size:
            return
        tag = _read_varint(file)
        number, kind = (tag >> 3, tag & 7) if tag is not None else (0, -1)
        value = _read_varint(file)
        if value is None or kind != (_BYTES if later and number in _LATER else known.get(number)):
            raise ValueError(f"field {number} of kind {kind} is not known")
        length = value if kind == _BYTES else 0
        end = file.tell() + length
        if end > size:
            raise ValueError(f"field {number} is cut short")
        yield number, length
        file.seek(end)
    raise ValueError(f"there are more than {_MAX_FIELDS} fields")


def _read_varint(file: BinaryIO | io.BytesIO) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
