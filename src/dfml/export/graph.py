"""The exported graph: bytes of images of any size to the probabilities of the labels, as one traced program."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dfml.errors import LearnerError
from dfml.images import resize_and_crop, to_float

INPUT, OUTPUT = "images", "probabilities"
"""Names of the only input and the only output of the graph."""


class ClassifierGraph(nn.Module):
    """Converts bytes to floats, resizes and crops, computes the logits, and their softmax.

    Args:
        scores: Module from images in [0, 1], (images, 3, size, size), to logits.
        size: Height and width of the network's input, in pixels.
    """

    def __init__(self, scores: nn.Module, size: int) -> None:
        super().__init__()
        self.scores = scores
        self.size = size

    def forward(self, images: UInt8[Tensor, "images height width 3"]) -> Float[Tensor, "images labels"]:
        """Probabilities of the labels; rows sum to 1."""
        floats = resize_and_crop(to_float(images.permute(0, 3, 1, 2)), self.size)
        probabilities: Tensor = self.scores(floats).softmax(dim=1)
        return probabilities


def trace(scores: nn.Module, size: int) -> ExportedProgram:
    """Trace a classifier whose weights are on the CPU; number, height and width of the images stay free.

    Args:
        scores: See `ClassifierGraph`.
        size: See `ClassifierGraph`.

    Raises:
        LearnerError: If the classifier computes something that a graph cannot hold, such as a query of a service.
    """
    graph = ClassifierGraph(scores, size).eval()
    # Sides that differ from each other and from `size`: the tracer takes equal lengths for the same one.
    example = torch.zeros((2, size + 5, size + 9, 3), dtype=torch.uint8)
    free = {INPUT: {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (example,), dynamic_shapes=free)
    except Exception as error:  # the tracer raises errors of many classes
        raise LearnerError(
            f"the classifier cannot be exported: PyTorch cannot trace it ({_first_line(error)}); use `dfml predict`"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
