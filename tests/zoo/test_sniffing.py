"""Files and folders are recognised by their content, whatever their name ends with, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from dfml.zoo.protobuf import is_onnx
from dfml.zoo.sniffing import READABLE, Kind, sniff
from tests.zoo.test_pickle_contents import Trap

WEIGHTS = {"w": torch.arange(6.0).view(2, 3)}


def onnx_bytes(graph: bytes = b"\n\x03abc") -> bytes:
    """A message with ONNX's version (field 1), producer (2) and graph (7)."""
    return b"\x08\x07\x12\x07pytorch" + b"\x3a" + bytes([len(graph)]) + graph


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


WRITERS: dict[Kind, Callable[[Path], object]] = {
    Kind.SAFETENSORS: lambda path: save_file(WEIGHTS, path),
    Kind.TENSORS: lambda path: torch.save(WEIGHTS, path),
    Kind.LIGHTNING: lambda path: torch.save({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.6.0"}, path),
    Kind.ONNX: lambda path: path.write_bytes(onnx_bytes()),
    Kind.TORCHSCRIPT: lambda path: _zip(path, "m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"),
    Kind.PT2: lambda path: _zip(path, "m/archive_format", "m/models/model.json"),
    Kind.HDF5: lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    Kind.TENSORFLOW: lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100)),
    Kind.LFS_POINTER: lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    Kind.PICKLED_MODULE: lambda path: torch.save(nn.Linear(2, 2), path),
    Kind.PICKLE: lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]})),
    Kind.ARCHIVE: lambda path: _zip(path, "images/a.png"),
    Kind.EMPTY: lambda path: path.write_bytes(b""),
    Kind.UNKNOWN: lambda path: path.write_bytes(b"\x01\xff\xfe" * 50),
    Kind.SPECIAL: lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("ending", ["pth", "onnx", "txt", "safetensors"])
@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_a_file_is_recognised_whatever_its_name(tmp_path: Path, kind: Kind, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    WRITERS[kind](path)
    found = sniff(path)
    assert found.kind is kind
    assert (found.reason is None) == (kind in READABLE)
    assert bool(found.reason) == bool(found.fix)
    assert found.is_candidate


@pytest.mark.parametrize("legacy", [False, True])
def test_both_containers_of_torch_are_read(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x"
    torch.save({"net": WEIGHTS, "acc": 90.0}, path, _use_new_zipfile_serialization=not legacy)
    assert sniff(path).kind is Kind.TENSORS
    torch.save({"epoch": 1, "model": nn.Sequential(nn.Linear(1, 1))}, path, _use_new_zipfile_serialization=not legacy)
    found = sniff(path)
    assert found.kind is Kind.PICKLED_MODULE
    assert "torch.nn.modules.container.Sequential" in str(found.reason)
    assert "weights_only=False)['model']; torch.save(model.state_dict(), 'x_state_dict.pth')" in found.fix


def test_the_owners_two_lines_make_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1, "model": nn.Linear(3, 2)}, "whole.pt")
    lines = sniff(Path("whole.pt")).fix.removeprefix("ask its owner to run: ")
    exec(lines, {"torch": torch})
    assert sniff(Path("whole_state_dict.pth")).kind is Kind.TENSORS
    assert set(torch.load("whole_state_dict.pth", weights_only=True)) == {"weight", "bias"}


def test_torchscript_and_pt2_of_torch_itself_are_recognised(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    program = torch.export.export(network, (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    found = sniff(tmp_path / "a.pt2")
    assert found.kind is Kind.PT2
    assert "torch.export.load('a.pt2')" in found.fix
    assert "DFML_ALLOW_CODE" in found.fix


@pytest.mark.parametrize(
    ("config", "kind", "detail"),
    [
        ({"architecture": "resnet18"}, Kind.TIMM, "resnet18"),
        (
            {"architectures": ["ViTForImageClassification"], "model_type": "vit"},
            Kind.TRANSFORMERS,
            "ViTForImageClassification",
        ),
        ({"model_type": "vit"}, Kind.TRANSFORMERS, "vit"),
        ({"layers": 3}, Kind.UNKNOWN, "folder"),
    ],
)
def test_a_folder_is_recognised_by_its_configuration(tmp_path: Path, config: object, kind: Kind, detail: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = sniff(tmp_path)
    assert (found.kind, found.detail) == (kind, detail)


def test_a_folder_of_tensorflow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert sniff(tmp_path).kind is Kind.TENSORFLOW


@pytest.mark.parametrize("kind", [Kind.SAFETENSORS, Kind.TENSORS], ids=lambda kind: kind.name)
def test_a_file_that_is_cut_short_is_damaged(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "weights"
    WRITERS[kind](path)
    path.write_bytes(path.read_bytes()[:-40])
    found = sniff(path)
    assert found.kind is Kind.DAMAGED
    assert found.fix == "download it again"


@pytest.mark.parametrize(
    ("text", "words"), [("<!DOCTYPE html><html>", "web page"), ("# weights\n1 2 3\n", "it is text, not weights")]
)
def test_a_text_that_is_named_as_weights_is_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "model.pth").write_text(text)
    assert words in str(sniff(tmp_path / "model.pth").reason)
    (tmp_path / "README.md").write_text(text)
    assert sniff(tmp_path / "README.md").kind is Kind.OTHER


def test_an_image_is_no_candidate(tmp_path: Path) -> None:
    from PIL import Image

    for ending in ("png", "jpg", "gif", "webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a.{ending}")
        assert not sniff(tmp_path / f"a.{ending}").is_candidate


def test_a_missing_file_is_a_row_with_a_reason(tmp_path: Path) -> None:
    found = sniff(tmp_path / "none")
    assert found.kind is Kind.UNKNOWN
    assert "No such file" in str(found.reason)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_something_does_not_run_it(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "trap.pth"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "opened"), protocol))
    assert sniff(path).kind is Kind.PICKLED_MODULE
    assert not (tmp_path / "opened").exists()


@given(
    content=st.binary(min_size=1, max_size=300), mark=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x08\x07"])
)
def test_any_file_has_one_kind(tmp_path_factory: pytest.TempPathFactory, content: bytes, mark: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(mark + content)
    found = sniff(path)
    assert found.kind is not Kind.SAFETENSORS
    assert (found.reason is None) == (found.kind in READABLE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (onnx_bytes(), True),
        (onnx_bytes()[:-1], False),  # the graph ends after the file
        (onnx_bytes() + b"\x00", False),
        (b"\x08\x07\x12\x07pytorch", False),  # no graph
        (b"\x0a\x03abc", False),  # a graph of TensorFlow
        (b"\x3a" + b"\xff" * 9 + b"\x01", False),
    ],
)
def test_onnx_is_recognised_by_its_fields(tmp_path: Path, content: bytes, expected: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert is_onnx(file, len(content)) is expected
