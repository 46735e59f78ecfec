"""ONNX files of strangers: no file outside of the folder is read, no library is loaded, and memory is bounded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfml.errors import ZooMemberError
from dfml.zoo import onnx_graph
from dfml.zoo.onnx_graph import read_onnx_graph

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.zoo.onnx_models import CHANNELS, classifier, save  # noqa: E402


def external(path: Path, location: str, *, offset: int = 0, length: int | None = None) -> Path:
    """A classifier whose kernel lies in another file."""
    model = classifier()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "kernel")
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), "length": str(len(content) if length is None else length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def kernel_bytes() -> bytes:
    kernel: bytes = next(tensor.raw_data for tensor in classifier().graph.initializer if tensor.name == "kernel")
    return kernel


def test_weights_beside_the_graph_are_read_into_it(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1234" + kernel_bytes())
    graph = read_onnx_graph(external(tmp_path / "a.onnx", "weights.bin", offset=4))
    kernel = next(tensor for tensor in graph.model.graph.initializer if tensor.name == "kernel")
    assert numpy_helper.to_array(kernel).tobytes() == kernel_bytes()
    assert not kernel.external_data  # so that a runtime opens no file


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "", "missing", "a/../../secret", "folder", "pipe"])
def test_weights_anywhere_else_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "member"
    (folder / "folder").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret").write_bytes(kernel_bytes())
    with pytest.raises(ZooMemberError, match="expected the weights in a file of the same folder"):
        read_onnx_graph(external(folder / "a.onnx", location))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    (tmp_path / "secret").write_bytes(kernel_bytes())
    (tmp_path / "member" / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ZooMemberError, match="of the same folder"):
        read_onnx_graph(external(tmp_path / "member" / "a.onnx", "weights.bin"))


@pytest.mark.parametrize(("offset", "length"), [(8, None), (0, 10**12), (10**15, 4)])
def test_more_weights_than_the_file_has_are_refused(tmp_path: Path, offset: int, length: int | None) -> None:
    (tmp_path / "weights.bin").write_bytes(kernel_bytes())
    with pytest.raises(ZooMemberError, match="shorter than the graph says"):
        read_onnx_graph(external(tmp_path / "a.onnx", "weights.bin", offset=offset, length=length))


def in_a_branch(node: Any) -> Any:
    """The operator inside of a branch of an `If`, where a glance at the graph does not see it."""
    inner = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["condition"], ["chosen"], then_branch=inner, else_branch=inner)


@pytest.mark.parametrize("wrap", [lambda node: node, in_a_branch], ids=["in the graph", "in a branch"])
def test_operators_of_a_library_are_refused(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    node = helper.make_node("Evil", ["images"], ["out"], domain="evil.org")
    with pytest.raises(ZooMemberError, match=r"its operator evil.org:Evil needs a library of code"):
        read_onnx_graph(save(tmp_path / "a.onnx", extra=[wrap(node)]))


def huge() -> list[Any]:
    """A tensor of 10^14 values from a few bytes."""
    shape = numpy_helper.from_array(np.array([1, 3, 10**6, 10**8], dtype=np.int64))
    return [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["expanded"]),
    ]


def test_a_tensor_that_fits_no_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(ZooMemberError, match="values in a tensor, found one of shape"):
        read_onnx_graph(save(tmp_path / "a.onnx", extra=huge()))
    with pytest.raises(ZooMemberError, match="values in a tensor, found one of shape"):
        read_onnx_graph(save(tmp_path / "b.onnx", size=10**5))


def test_a_graph_of_any_length_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_MAX_NODES", 3)
    with pytest.raises(ZooMemberError, match="more than 3 operators"):
        read_onnx_graph(save(tmp_path / "a.onnx"))


def test_a_weight_that_claims_another_shape_is_refused(tmp_path: Path) -> None:
    model = classifier()
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "kernel")
    kernel.dims[0] = CHANNELS * 10**6
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ZooMemberError, match=r"not valid ONNX|values in a tensor"):
        read_onnx_graph(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"ONNX", bytes(range(256)) * 4])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ZooMemberError):
        read_onnx_graph(tmp_path / "a.onnx")


def test_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(ZooMemberError, match="expected a file"):
            read_onnx_graph(tmp_path / name)


def test_what_a_graph_takes_and_returns_is_read_from_it(tmp_path: Path) -> None:
    graph = read_onnx_graph(save(tmp_path / "a.onnx", channels_last=True, batch=1, ending="Softmax", size=(12, 20)))
    found = (graph.channels, graph.channels_last, graph.size, graph.fixed_batch, graph.outputs, graph.ending)
    assert found == (3, True, (12, 20), True, 3, "softmax")
    graph = read_onnx_graph(save(tmp_path / "b.onnx", size="side", dtype=TensorProto.UINT8))
    assert (graph.size, graph.fixed_batch, graph.dtype, graph.ending) == (None, False, "uint8", "logits")
