"""Networks from ONNX graphs: converted to torch, with gradients, or run by ONNX Runtime, without.

Both take normalised images, channels first, and return what the graph returns. Needs the extra `onnx`.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dfml.seeds import generator
from dfml.zoo.foreign_networks import OneByOne, require_gradient
from dfml.zoo.onnx_graph import OnnxGraph

CONVERTED_OPSET = 16
"""Version of the operators that a graph of a later version is rewritten to where it cannot be converted as it is."""

_TOLERANCE = 1e-4  # between the converted network and ONNX Runtime, relative to the largest output, at least 1


class ConversionError(Exception):
    """A graph cannot be converted to torch, or the converted network is another function."""


class RuntimeNetwork(nn.Module):
    """An ONNX graph run by ONNX Runtime on the CPU: outputs without gradients.

    Args:
        graph: The graph; its bytes are given to the runtime, which opens no file.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._graph = graph

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs for normalised images in the graph's own layout; one by one where the graph takes only one."""
        values = inputs.detach().cpu().contiguous()
        if self._graph.dtype == "uint8":
            values = values.round().clamp(0, 255).to(torch.uint8)
        arrays = values.numpy().astype(self._graph.dtype, copy=False)
        step = 1 if self._graph.fixed_batch else len(arrays)
        parts = [
            self._session.run([self._graph.output_name], {self._graph.input_name: arrays[start : start + step]})[0]
            for start in range(0, len(arrays), step)
        ]
        return torch.cat([torch.from_numpy(part).float().reshape(step, -1) for part in parts])


def logits_graph(graph: OnnxGraph) -> tuple[OnnxGraph, str]:
    """The graph without a softmax or sigmoid at its end, and what it then returns (`dfml.zoo.adapters.OUTPUTS`).

    Gradients of logits do not vanish where a probability is near 0 or 1.
    """
    last = next((node for node in graph.model.graph.node if graph.output_name in node.output), None)
    shape = graph.model.graph.output[0].type.tensor_type.shape.dim
    axis = next((attribute.i for attribute in last.attribute if attribute.name == "axis"), -1) if last else -1
    if graph.ending == "logits" or last is None or axis not in (-1, 1) or len(shape) != 2:
        return graph, graph.ending
    model = copy.deepcopy(graph.model)
    node = next(node for node in model.graph.node if graph.output_name in node.output)
    shown = copy.deepcopy(model.graph.output[0])
    shown.name = node.input[0]
    model.graph.node.remove(node)
    del model.graph.output[:]
    model.graph.output.append(shown)
    ending = "logit" if graph.ending == "sigmoid" else "logits"
    changed = {**vars(graph), "model": model, "output_name": shown.name, "ending": ending}
    return OnnxGraph(**changed), ending


def convert(graph: OnnxGraph, side: tuple[int, int]) -> nn.Module:
    """Convert a graph to a differentiable network that agrees with ONNX Runtime.

    Args:
        graph: The graph.
        side: Height and width of the images to compare with.

    Raises:
        ConversionError: If an operator is not known, the outputs differ by more than 1e-4 (relative to the largest
            output, at least 1) on random images, or no gradient reaches the images.
    """
    if graph.dtype not in ("float32", "float16", "float64"):
        raise ConversionError(f"its input has the type {graph.dtype}")
    network = _convert(graph.model).float().eval().requires_grad_(False)
    shape = (*side, graph.channels) if graph.channels_last else (graph.channels, *side)
    images = torch.randn(2, *shape, generator=generator(0, "onnx", "comparison"))
    expected = RuntimeNetwork(graph)(images)
    error: Exception | None = None
    for candidate in (network, OneByOne(network)):
        try:
            _compare(candidate, images, expected)
        except Exception as caught:  # an operator raises anything for a shape that it does not expect
            error = caught
        else:
            return candidate
    raise ConversionError(" ".join(str(error).split())[:200])


def _convert(model: Any) -> nn.Module:
    import onnx

    try:
        from onnx2torch import convert as onnx_to_torch
    except ImportError as error:
        raise ConversionError(f"the converter is not installed ({error})") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network: nn.Module = onnx_to_torch(copy.deepcopy(model))
        except Exception as first:
            if opset <= CONVERTED_OPSET:
                raise ConversionError(" ".join(str(first).split())[:200]) from first
            try:
                older = onnx.version_converter.convert_version(model, CONVERTED_OPSET)
                network = onnx_to_torch(older)
            except Exception:
                raise ConversionError(" ".join(str(first).split())[:200]) from first
    return network


def _compare(network: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Check outputs and gradients.

    Raises:
        ConversionError: If the outputs differ.
        ForeignNetworkError: If no gradient reaches the images.
    """
    found = require_gradient(network, images)
    if found.shape != expected.shape:
        raise ConversionError(f"its output has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    difference = float((found - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ConversionError(f"its outputs differ by {difference:.2g} from those of ONNX Runtime")
