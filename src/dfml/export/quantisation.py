"""Weights, and with example images activations too, of an ONNX file as 8-bit integers."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfml.export.exported import Bytes
from dfml.export.graph import INPUT
from dfml.files import atomic_file

if TYPE_CHECKING:
    import onnx

# Smaller tensors save next to nothing.
_SMALLEST = 1024


def quantise(path: Path, out: Path, examples: Sequence[Bytes] | None = None) -> None:
    """Write a copy of an ONNX file with weights of convolutions and matrix products as 8-bit integers.

    Args:
        path: File from `write_program`.
        out: Name of the new file; an existing one is replaced.
        examples: Batches of images, which show the range of the activations: these are then 8-bit integers, too, and
            runtimes compute with integers. None: the weights alone are stored as integers, by one scale per output
            channel, and multiplied out when the file is run: a quarter of the size, and the speed of floats.

    Raises:
        OSError: If the file cannot be written.
    """
    import onnx

    with atomic_file(out) as unfinished:
        if examples is None:
            model = onnx.load(path)
            _quantise_weights(model)
            unfinished.write_bytes(model.SerializeToString())
        else:
            _quantise_all(path, unfinished, examples)


def _weighted_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The nodes whose second input is a constant matrix or kernel of some size, by their names.

    The products that resize the images have none, and stay floats.
    """
    large = {tensor.name for tensor in model.graph.initializer if np.prod(tensor.dims) >= _SMALLEST}
    kinds = ("Conv", "Gemm", "MatMul")
    return {node.name: node for node in model.graph.node if node.op_type in kinds and node.input[1] in large}


def _quantise_weights(model: onnx.ModelProto) -> None:
    """Replace weights by 8-bit integers, symmetric, with one scale per output channel, and a DequantizeLinear."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, int] = {}
    for node in _weighted_nodes(model).values():
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axes[node.input[1]] = 0 if node.op_type == "Conv" or transposed else len(constants[node.input[1]].dims) - 1
    for name, axis in axes.items():
        weight = numpy_helper.to_array(constants[name])
        others = tuple(index for index in range(weight.ndim) if index != axis)
        scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True) / 127.0, np.finfo(np.float32).tiny)
        integers = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
        graph.initializer.remove(constants[name])
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale.ravel().astype(np.float32), f"{name}.scale"))
        inputs = [f"{name}.int8", f"{name}.scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], f"{name}.dequantise", axis=axis))


def _quantise_all(path: Path, out: Path, examples: Sequence[Bytes]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Examples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(examples)

        def get_next(self) -> dict[str, Bytes] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    nodes = list(_weighted_nodes(onnx.load(path)))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "int8.onnx"
        with _without_warnings():  # it advises a simplification of the graph, which the exporter has done already
            quantize_static(
                str(path),
                str(result),
                Examples(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                nodes_to_quantize=nodes,
            )
        model = onnx.load(result)
        model.metadata_props.extend(
            entry
            for entry in onnx.load(path).metadata_props
            if entry.key not in {own.key for own in model.metadata_props}
        )
        out.write_bytes(model.SerializeToString())


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
