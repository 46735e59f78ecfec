"""8-bit integers: the file is a fraction of the size, and its predictions are near those of floats."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dfml.export.exported import compare, open_exported
from dfml.export.quantisation import quantise
from dfml.learners.student import Student
from tests.factories import PREPROCESSING, SIZE, images


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    learner = Student.untrained("conv4_64", {}, (3, 2), PREPROCESSING, embedding="features")
    path = tmp_path_factory.mktemp("exported") / "float.onnx"
    learner.adapt(images(4, 1), torch.tensor([0, 1, 0, 1]), ("x", "y")).export(path)
    return path


@pytest.mark.parametrize("calibrated", [False, True])
def test_int8_is_smaller_and_nearly_the_same(calibrated: bool, exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported, tmp_path / "float.onnx")
    pixels = (images(12, 2, size=SIZE) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    quantise(tmp_path / "float.onnx", tmp_path / "int8.onnx", [pixels] if calibrated else None)
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("float", "int8")]
    assert sizes[1] < 0.4 * sizes[0]
    first, second = (open_exported(tmp_path / f"{name}.onnx", "onnx") for name in ("float", "int8"))
    assert 0 < compare([(first(pixels), second(pixels))]).largest < 0.05
    kept, original = (onnx.load(tmp_path / f"{name}.onnx").metadata_props for name in ("int8", "float"))
    assert {(p.key, p.value) for p in original} <= {(p.key, p.value) for p in kept}


def test_agreement_counts_equal_labels_and_differences() -> None:
    rows = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32)
    other = np.array([[0.8, 0.2], [0.7, 0.3]], dtype=np.float32)
    found = compare([(rows[:1], other[:1]), (rows[1:], other[1:])])
    assert (found.images, found.equal_labels) == (2, 0.5)
    assert (found.largest, found.mean) == (pytest.approx(0.3), pytest.approx(0.2))
    assert "50.0% equal labels" in str(found)
