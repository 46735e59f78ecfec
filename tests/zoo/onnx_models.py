"""Small ONNX classifiers for tests, written operator by operator. Needs onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CHANNELS = 16, 6
LABELS = ("ant", "bee", "cat")


def weights(outputs: int = 3, channels: int = 3) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "kernel": draws.standard_normal((CHANNELS, channels, 3, 3)).astype(np.float32),
        "matrix": draws.standard_normal((outputs, CHANNELS)).astype(np.float32),
        "offset": draws.standard_normal(outputs).astype(np.float32),
    }


def classifier(
    *,
    outputs: int = 3,
    channels: int = 3,
    ending: str | None = None,
    channels_last: bool = False,
    dtype: int = TensorProto.FLOAT,
    batch: int | str = "images",
    size: int | str | tuple[int, int] = SIZE,
    extra: list[Any] | None = None,
    opset: int = 17,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """Convolution, ReLU, average pooling, linear layer; and what the arguments add to either end."""
    height, width = size if isinstance(size, tuple) else (size, size)
    shape = [batch, height, width, channels] if channels_last else [batch, channels, height, width]
    nodes, current = [], "images"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [current], ["floats"], to=TensorProto.FLOAT))
        current = "floats"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [current], ["first"], perm=[0, 3, 1, 2]))
        current = "first"
    for node in extra or []:
        nodes.append(node)
        current = node.output[0]
    nodes += [
        helper.make_node("Conv", [current, "kernel"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "offset"], ["logits"], transB=1),
    ]
    last = "logits"
    if ending:
        last = "ended"
        nodes.append(helper.make_node(ending, ["logits"], [last]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights(outputs, channels).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


METADATA = {"labels": '["ant", "bee", "cat"]', "mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.25, 0.3]"}
BYTES = {**METADATA, "mean": "[0]", "std": "[0.00392156862745098]"}


def save(path: Path, **settings: Any) -> Path:
    """Write a classifier that describes itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(classifier(**{"metadata": METADATA, **settings}), path)
    return path


def floor() -> list[Any]:
    """An operator whose gradient is zero."""
    return [helper.make_node("Floor", ["images"], ["whole"])]
