"""Recognition of ONNX files: the outermost fields of a protobuf message, without a protobuf library."""

from __future__ import annotations

from typing import BinaryIO

_VARINT, _BYTES = 0, 2  # wire types
_IR_VERSION, _GRAPH = 1, 7  # fields of onnx.ModelProto (onnx.proto)
_KNOWN = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, 7: _BYTES, 8: _BYTES, 14: _BYTES}
_LATER = range(15, 100)  # training information, functions, configurations: bytes
_MAX_FIELDS = 10_000


def is_onnx(file: BinaryIO, size: int) -> bool:
    """Whether a file is an ONNX model: a message with a version and a graph, all of whose fields are known.

    Args:
        file: Opened for reading, at its first byte. The graph is skipped, not read.
        size: Length of the file in bytes.
    """
    fields: set[int] = set()
    for _ in range(_MAX_FIELDS):
        if file.tell() == size:
            return {_IR_VERSION, _GRAPH} <= fields
        tag = _read_varint(file)
        if tag is None:
            return False
        number, kind = tag >> 3, tag & 7
        if kind != (_BYTES if number in _LATER else _KNOWN.get(number)):
            return False
        value = _read_varint(file)
        if value is None or (kind == _BYTES and file.tell() + value > size):
            return False
        if kind == _BYTES:
            file.seek(value, 1)
        fields.add(number)
    return False


def _read_varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
