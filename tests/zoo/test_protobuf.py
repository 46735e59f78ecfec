"""The outermost fields of an ONNX file, read without a protobuf library."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.zoo.protobuf import is_onnx, read_onnx_metadata

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
from tests.zoo.onnx_models import classifier  # noqa: E402


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=5))
def test_metadata_are_those_that_onnx_writes(metadata: dict[str, str]) -> None:
    content = classifier(metadata=metadata).SerializeToString()
    assert is_onnx(io.BytesIO(content), len(content))
    assert read_onnx_metadata(io.BytesIO(content), len(content)) == metadata


@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_other_bytes_have_none(content: bytes, cut: int) -> None:
    model = classifier(metadata={"labels": "[]"}).SerializeToString()
    for data in (content, model[: len(model) - 1 - cut]):
        found = read_onnx_metadata(io.BytesIO(data), len(data))
        assert isinstance(found, dict)
        assert "labels" not in found
