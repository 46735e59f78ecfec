"""Writing of the traced program: ONNX (extra `onnx`), and `.pt2` of `torch.export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.export import ExportedProgram

from dfml.errors import UsageError
from dfml.export.graph import INPUT, OUTPUT
from dfml.files import atomic_file

if TYPE_CHECKING:
    import onnx

ExportFormat = Literal["onnx", "pt2"]

# The oldest version with all operations that the exporter of torch writes; old runtimes know it.
_OPSET = 18
_DESCRIPTION = (
    "Images as bytes, RGB, (images, height, width, 3), of any height and width, to the probabilities of the labels, "
    "(images, labels). Labels and origin are in the metadata `labels` and `dfml`, as JSON."
)
_METADATA = "metadata.json"  # extra file of a .pt2


def write_program(program: ExportedProgram, path: Path, to: ExportFormat, metadata: Mapping[str, Any]) -> None:
    """Write a traced classifier to a file, which gets its name when it is complete.

    Args:
        program: From `dfml.export.graph.trace`.
        path: Name of the file; an existing one is replaced.
        to: `onnx` or `pt2`.
        metadata: Values by name, which are written as JSON.

    Raises:
        UsageError: If the extra `onnx` is missing.
        OSError: If the file cannot be written.
    """
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None] = _write_onnx if to == "onnx" else _write_pt2
    with atomic_file(path) as unfinished:
        write(program, unfinished, texts)


def require_onnx() -> None:
    """Check that the extra `onnx` is installed.

    Raises:
        UsageError: If a part of it is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX files need {', '.join(missing)}, which cannot be imported: install dfml[onnx], or export to pt2"
        )


def _write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    require_onnx()
    import onnx

    exported = torch.onnx.export(
        program, (), input_names=[INPUT], output_names=[OUTPUT], opset_version=_OPSET, verbose=False
    )
    assert exported is not None
    model = exported.model_proto
    _clean(model)
    _name_free_axes(model)
    model.doc_string = _DESCRIPTION
    onnx.helper.set_model_props(model, dict(metadata))
    path.write_bytes(model.SerializeToString())


def _clean(model: onnx.ModelProto) -> None:
    """Delete what the exporter notes about its own work, such as paths of source files on this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_free_axes(model: onnx.ModelProto) -> None:
    batch, height, width, _ = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        axis.dim_param: name for axis, name in zip((batch, height, width), ("batch", "height", "width"), strict=True)
    }
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names.get(axis.dim_param, axis.dim_param)


def _write_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    for tensors in (program.state_dict, program.constants):
        for name, value in tensors.items():
            # torch warns of tensors in another memory format, such as kernels in `channels_last`.
            if isinstance(value, torch.Tensor) and not value.is_contiguous():
                own = value.detach().contiguous()
                tensors[name] = torch.nn.Parameter(own, value.requires_grad) if name in program.state_dict else own
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={_METADATA: json.dumps(metadata)})
