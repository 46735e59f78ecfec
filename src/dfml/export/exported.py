"""Running an exported file, and comparing two classifiers on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dfml.export.formats import ExportFormat
from dfml.export.graph import INPUT

Bytes = npt.NDArray[np.uint8]
"""RGB images as bytes, (images, height, width, 3)."""

Probabilities = npt.NDArray[np.float32]
"""(images, labels)."""

Predict = Callable[[Bytes], Probabilities]


def open_exported(path: Path, to: ExportFormat) -> Predict:
    """Open a file that `write_program` wrote, by ONNX Runtime on the CPU or by PyTorch.

    Only for one's own files: to open a `.pt2` can run code that is in it.
    """
    if to == "pt2":
        module = torch.export.load(path).module()

        def run(images: Bytes) -> Probabilities:
            with torch.no_grad():
                found: Probabilities = module(torch.from_numpy(images)).numpy()
                return found

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(images: Bytes) -> Probabilities:
        found: Probabilities = session.run(None, {INPUT: images})[0]
        return found

    return predict


@dataclass(frozen=True)
class Agreement:
    """How two classifiers agree on the same images.

    Attributes:
        images: Number of images.
        equal_labels: Share of the images for which both have the same most probable label.
        largest: Largest difference of a probability.
        mean: Mean difference of the probabilities.
    """

    images: int
    equal_labels: float
    largest: float
    mean: float

    def __str__(self) -> str:
        return (
            f"{self.equal_labels:.1%} equal labels, largest difference of a probability {self.largest:.2g}, "
            f"mean {self.mean:.2g} ({self.images} images)"
        )


def compare(pairs: Iterable[tuple[Probabilities, Probabilities]]) -> Agreement:
    """Compare the probabilities of two classifiers.

    Args:
        pairs: Probabilities of the one and the other, for the same images; at least one image in all.
    """
    first, second = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    differences = np.abs(first - second)
    equal = first.argmax(axis=1) == second.argmax(axis=1)
    return Agreement(len(first), float(equal.mean()), float(differences.max()), float(differences.mean()))
