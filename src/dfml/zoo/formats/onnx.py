"""ONNX files (extra `onnx`): differentiable members where the graph converts to torch, otherwise members that predict.

Size, channels, their order and the type of the input come from the graph. Labels and normalisation come from the
member's entry in `zoo.yaml`, or from the file's metadata: `labels`, `mean` and `std` (JSON lists; of values in [0, 1])
and, where the graph leaves it open, `size`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfml.errors import ZooMemberError
from dfml.files import open_regular_file
from dfml.zoo.adapters import adapt_network
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.formats import MemberConfig
from dfml.zoo.members import Predicts
from dfml.zoo.onnx_graph import OnnxGraph, read_onnx_graph
from dfml.zoo.onnx_networks import ConversionError, RuntimeNetwork, convert, logits_graph
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.protobuf import read_onnx_metadata
from dfml.zoo.trial import try_first

_FIX = "correct its entry in zoo.yaml"


class OnnxFormat:
    """Image classifiers in ONNX."""

    name = "onnx"
    may_only_predict = True

    def recognises(self, path: Path) -> bool:
        """Whether it is an ONNX file whose metadata state labels, mean and std; any other needs an entry."""
        try:
            with open_regular_file(path) as file:
                return _stated(read_onnx_metadata(file, path.stat().st_size)) is not None
        except OSError:
            return False

    def read_config(self, path: Path) -> MemberConfig:
        """Read what the metadata state.

        Raises:
            ZooMemberError: If they do not state labels, mean and std, or the file cannot be used.
        """
        graph = read_onnx_graph(path)
        stated = _stated(graph.metadata)
        if stated is None:
            reason = "its metadata do not state labels, mean and std"
            raise ZooMemberError(path, reason, "add it with `dfml zoo add`, which writes an entry in zoo.yaml")
        size = max(graph.size) if graph.size else stated.get("size")
        try:
            labels = tuple(str(label) for label in stated["labels"])
            mean, std = (tuple(map(float, stated[key])) for key in ("mean", "std"))
            mean, std = (values * 3 if len(values) == 1 else values for values in (mean, std))
            preprocessing = Preprocessing(int(size), mean, std)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            reason = f"expected `labels`, `mean`, `std` and `size` as JSON in its metadata ({error})"
            raise ZooMemberError(path, reason, "export it again") from error
        return MemberConfig(path, self.name, "ONNX graph", labels, preprocessing)

    def load(self, config: MemberConfig) -> nn.Module | Predicts:
        """Convert the graph, or run it by ONNX Runtime where it does not convert or converts to another function.

        Raises:
            ZooMemberError: If the file is damaged or out of bounds, or contradicts the entry in `zoo.yaml`.
        """
        graph = read_onnx_graph(config.weight_file)
        preprocessing, output = config.preprocessing, _output(config, graph)
        if graph.size and max(graph.size) != preprocessing.size:
            reason = f"the graph takes images of {graph.size[0]} x {graph.size[1]} pixels, not {preprocessing.size}"
            raise ZooMemberError(config.path, reason, _FIX)
        expected = 1 if output in ("logit", "sigmoid") else len(config.labels)
        if graph.outputs not in (None, expected):
            reason = f"the graph has {graph.outputs} outputs, expected {expected} for {len(config.labels)} labels"
            raise ZooMemberError(config.path, reason, _FIX)
        bytes_of_pixels = math.isclose(min(preprocessing.std), 1 / 255, rel_tol=1e-3) and not any(preprocessing.mean)
        if graph.dtype == "uint8" and not bytes_of_pixels:
            reason = f"the graph takes bytes, which have mean 0 and std 1 in the range 0..255, not {preprocessing}"
            raise ZooMemberError(config.path, reason, _FIX)
        return _network(config, graph, output)


FORMAT = OnnxFormat()


def try_network(path: Path, size: int) -> None:
    """Run and convert a graph, and throw away the result: for a trial (`dfml.zoo.trial`).

    Args:
        path: The ONNX file.
        size: Height and width of the images, where the graph leaves them open.

    Raises:
        ZooMemberError: If the file is damaged or out of bounds, or cannot be run.
    """
    graph = read_onnx_graph(path)
    height, width = side = graph.size or (size, size)
    shape = (height, width, graph.channels) if graph.channels_last else (graph.channels, height, width)
    try:
        RuntimeNetwork(graph)(torch.zeros(1, *shape))
        convert(logits_graph(graph)[0], side)
    except ConversionError:
        pass  # then it only predicts
    except Exception as error:  # ONNX Runtime raises errors of many types
        reason = " ".join(str(error).split())[:300]
        raise ZooMemberError(path, f"ONNX Runtime cannot run it ({reason})", "export the classifier again") from error


def _network(config: MemberConfig, graph: OnnxGraph, output: str) -> nn.Module | Predicts:
    size = config.preprocessing.size
    try_first("onnx_network", config.weight_file, size=size)

    def adapted(network: nn.Module, returned: str) -> nn.Module:
        return adapt_network(
            network,
            outputs=returned,
            size=graph.size if graph.size and graph.size[0] != graph.size[1] else None,
            channels=graph.channels,
            channels_last=graph.channels_last,
        )

    try:
        bare, ending = logits_graph(graph)
        network = convert(bare, graph.size or (size, size))
        return adapted(network, output if graph.ending == "logits" else ending)
    except ConversionError as error:
        reason = f"it only predicts, because it does not convert to torch: {error}"
    return BlackBoxClassifier(
        adapted(RuntimeNetwork(graph), output),
        config.labels,
        config.preprocessing,
        str(config.path),
        reason=reason,
    )


def _output(config: MemberConfig, graph: OnnxGraph) -> str:
    """What the graph returns: by its last operator, or else by the entry."""
    entry = config.entry
    if graph.ending != "logits":
        return graph.ending
    return str(entry.output) if entry else "logits"


def _stated(metadata: dict[str, str]) -> dict[str, Any] | None:
    """What the metadata state; None if anything is missing or no JSON."""
    try:
        stated = {key: json.loads(metadata[key]) for key in ("labels", "mean", "std")}
        if "size" in metadata:
            stated["size"] = json.loads(metadata["size"])
    except (KeyError, ValueError, RecursionError):
        return None
    return stated if all(isinstance(stated[key], list) for key in ("labels", "mean", "std")) else None
