"""Reading of ONNX files: what a graph takes and returns, and the checks before anything is built from it.

Needs the extra `onnx`. The file is parsed, and its weights are read from it and from its own folder only; the runtime
gets bytes, not a path. Operators of ONNX and of ONNX Runtime itself are known; others would need a library of code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfml.errors import ZooMemberError
from dfml.zoo.member_files import RESTORE
from dfml.zoo.trial import try_first

MAX_FILE_BYTES = 2**31 - 1
"""Largest ONNX file: the limit of the format's encoding."""

_MAX_NODES = 100_000
_MAX_ELEMENTS = 2**28  # of one tensor within the graph, for one image: 1 GiB of floats
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_FLOAT, _UINT8, _FLOAT16, _DOUBLE = 1, 2, 10, 11  # onnx.TensorProto.DataType
_NO_MEMBER = "leave it out, or export the classifier again"


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX classifier that passed the checks.

    Attributes:
        model: The model (`onnx.ModelProto`) with all of its weights.
        input_name: Name of the input.
        dtype: NumPy name of the type of the input: float32, float16, float64 or uint8.
        channels: 1 or 3.
        channels_last: Whether an image is (height, width, channels).
        size: Height and width of the input; None where the graph leaves them open.
        fixed_batch: Whether the graph takes exactly one image at a time.
        output_name: Name of the output.
        outputs: Number of outputs per image; None where the graph leaves it open.
        ending: What the last operator makes of the outputs, one of `dfml.zoo.adapters.OUTPUTS`.
        metadata: The properties that the exporter noted.
    """

    model: Any
    input_name: str
    dtype: str
    channels: int
    channels_last: bool
    size: tuple[int, int] | None
    fixed_batch: bool
    output_name: str
    outputs: int | None
    ending: str
    metadata: dict[str, str]


def read_onnx_graph(path: Path) -> OnnxGraph:
    """Read and check an ONNX file.

    Raises:
        ZooMemberError: If onnx is not installed; if the file is damaged, refers to files outside of its folder, uses
            operators of a library, or asks for too much time or memory; or if it is no classifier of images.
    """
    try:
        import onnx
    except ImportError as error:
        fix = "install it with `pip install 'dfml[onnx]'`"
        raise ZooMemberError(path, f"ONNX members need onnx and onnxruntime ({error})", fix) from error
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise ZooMemberError(path, f"expected a file of at most {MAX_FILE_BYTES} bytes", RESTORE)
    try_first("onnx_graph", path)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:
        raise ZooMemberError(path, f"it is no ONNX file, or damaged ({type(error).__name__})", RESTORE) from error
    _check_nodes(path, model)
    _load_weights(path, model)
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ZooMemberError(path, f"the graph is not valid ONNX ({reason})", RESTORE) from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sizes = [size or 1 for size in _shape(value)]
        if math.prod(sizes) > _MAX_ELEMENTS:
            reason = f"expected at most {_MAX_ELEMENTS} values in a tensor, found one of shape {sizes}"
            raise ZooMemberError(path, reason, _NO_MEMBER)
    return _describe(path, model)


def _check_nodes(path: Path, model: Any) -> None:
    own = {function.domain for function in model.functions}
    for count, node in enumerate(_nodes(model)):
        if count >= _MAX_NODES:
            raise ZooMemberError(path, f"the graph has more than {_MAX_NODES} operators", _NO_MEMBER)
        if node.domain not in _DOMAINS | own:
            reason = f"its operator {node.domain[:60]}:{node.op_type[:60]} needs a library of code, which is not loaded"
            raise ZooMemberError(path, reason, _NO_MEMBER)


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, the bodies of functions, and the graphs within the attributes of their nodes."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _nodes(model: Any) -> Iterator[Any]:
    return (node for graph in _graphs(model) for node in graph.node)


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors that a model holds."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        sparse = list(getattr(graph, "sparse_initializer", ()))
        for node in graph.node:
            for attribute in node.attribute:
                yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
                sparse += [
                    *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                    *attribute.sparse_tensors,
                ]
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)


def _load_weights(path: Path, model: Any) -> None:
    """Read weights that lie in files beside the graph, from regular files below its folder only."""
    import onnx

    folder = path.parent.resolve()
    external = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = folder / location
        inside = location and not Path(location).is_absolute() and file.resolve().is_relative_to(folder)
        if not inside or not file.is_file():
            reason = f"expected the weights in a file of the same folder, found {location[:200]!r}"
            raise ZooMemberError(path, reason, "put the file of the weights beside the ONNX file")
        start, length = entries.get("offset", "0"), entries.get("length", "0")
        if not (start.isdecimal() and length.isdecimal()) or int(start) + int(length) > file.stat().st_size:
            raise ZooMemberError(path, f"{location[:200]!r} is shorter than the graph says", RESTORE)
    try:
        for tensor in external:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ZooMemberError(path, f"its weights cannot be read ({reason})", RESTORE) from error


def _describe(path: Path, model: Any) -> OnnxGraph:
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1 or not graph.output:
        reason = f"expected one input and an output, found {len(inputs)} and {len(graph.output)}"
        raise ZooMemberError(path, reason, _NO_MEMBER)
    types = {_FLOAT: "float32", _UINT8: "uint8", _FLOAT16: "float16", _DOUBLE: "float64"}
    dtype, shape = types.get(inputs[0].type.tensor_type.elem_type), _shape(inputs[0])
    last = dtype is not None and len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
    if dtype is None or len(shape) != 4 or (not last and shape[1] not in (1, 3)) or shape[0] not in (None, 1):
        found = f"shape {[size or '?' for size in shape]} and type {inputs[0].type.tensor_type.elem_type}"
        reason = (
            f"expected images of 1 or 3 channels, (images, channels, height, width) or channels last, found {found}"
        )
        raise ZooMemberError(path, reason, _NO_MEMBER)
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    output = graph.output[0]
    columns = _shape(output)[1:] or [None]
    return OnnxGraph(
        model=model,
        input_name=inputs[0].name,
        dtype=dtype,
        channels=int((shape[3] if last else shape[1]) or 3),
        channels_last=last,
        size=(height, width) if height and width else None,
        fixed_batch=shape[0] == 1,
        output_name=output.name,
        outputs=math.prod(size for size in columns if size) if all(columns) else None,
        ending=_ending(graph, output.name),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _shape(value: Any) -> list[int | None]:
    """Sizes of a value; None where the graph leaves one open."""
    return [
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in value.type.tensor_type.shape.dim
    ]


def _ending(graph: Any, output: str) -> str:
    """What the outputs are, by the operator that makes them."""
    last = next((node for node in graph.node if output in node.output), None)
    return {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}.get(
        last.op_type if last else "", "logits"
    )
