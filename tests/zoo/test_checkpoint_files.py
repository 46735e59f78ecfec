"""Weights are read from other people's files whatever they are wrapped in; hostile and damaged ones are refused."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfml.errors import ZooMemberError
from dfml.zoo import checkpoint_files
from dfml.zoo.checkpoint_files import Checkpoint, read_checkpoint
from tests.zoo.test_pickle_contents import Network, Trap

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
WEIGHTS = NETWORK.state_dict()


def read(path: Path, content: Any, **options: Any) -> Checkpoint:
    torch.save(content, path, **options)
    return read_checkpoint(path)


def refusal(path: Path) -> str:
    with pytest.raises(ZooMemberError) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("entry", ["", "state_dict", "net", "model", "model_state_dict", "ema", "some_name"])
def test_weights_are_found_under_any_key_in_both_containers(tmp_path: Path, entry: str, legacy: bool) -> None:
    content = {"epoch": 3, "optimizer": {"state": {0: torch.ones(99)}}, entry: WEIGHTS} if entry else WEIGHTS
    found = read(tmp_path / "x.bin", content, _use_new_zipfile_serialization=not legacy)
    assert list(found.state_dict) == list(WEIGHTS)
    assert all(torch.equal(found.state_dict[name], WEIGHTS[name]) for name in WEIGHTS)
    assert found.details.get("entry", "") == entry


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({f"model.{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert set(found.state_dict) == set(WEIGHTS)
    assert found.details == {"prefix": "model."}


def test_half_precision_is_widened_and_noted(tmp_path: Path) -> None:
    found = read(
        tmp_path / "x",
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in WEIGHTS.items()},
    )
    assert found.state_dict["0.weight"].dtype is torch.float32
    assert found.state_dict["1.num_batches_tracked"].dtype is torch.int64
    assert found.details["stored_as"] == "float16"


def test_the_weights_fit_the_network_that_they_came_from(tmp_path: Path) -> None:
    old = {f"module.{name}": tensor for name, tensor in WEIGHTS.items() if "num_batches" not in name}
    found = read(tmp_path / "x", {"state_dict": old, "best_prec1": 91.78})
    again = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    again.load_state_dict(found.state_dict, strict=True)
    assert found.details["held_out_accuracy"] == pytest.approx(0.9178)


@pytest.mark.parametrize(
    "value",
    [
        ["ant", "bee"],
        ("ant", "bee"),
        {0: "ant", 1: "bee"},
        {"1": "bee", "0": "ant"},
        {"ant": 0, "bee": 1},
    ],
)
@pytest.mark.parametrize("key", ["classes", "names", "id2label"])
def test_class_names_are_taken_from_the_file(tmp_path: Path, key: str, value: Any) -> None:
    assert read(tmp_path / "x", {"model": WEIGHTS, key: value}).labels == ("ant", "bee")


def test_values_that_are_no_class_names_are_no_labels(tmp_path: Path) -> None:
    assert read(tmp_path / "x", {"model": WEIGHTS, "classes": 10, "names": ["a", "a"], "labels": [1, 2]}).labels == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.5), (91, 0.91), (torch.tensor(87.5), 0.875), (np.float64(62.5), 0.625), (np.float32(0.25), 0.25)],
)
def test_an_accuracy_is_a_fraction_whatever_its_type(tmp_path: Path, value: Any, expected: float) -> None:
    assert read(tmp_path / "x", {"net": WEIGHTS, "acc": value}).details["held_out_accuracy"] == expected


@pytest.mark.parametrize("value", [0.0, -1.0, 300, True, "high"])
def test_a_value_that_is_no_accuracy_is_not_reported(tmp_path: Path, value: Any) -> None:
    assert "held_out_accuracy" not in read(tmp_path / "x", {"net": WEIGHTS, "acc": value}).details


def test_objects_of_classes_beside_the_weights_do_not_stop_the_reading(tmp_path: Path) -> None:
    content = {"net": WEIGHTS, "args": argparse.Namespace(lr=0.1, net="resnet"), "log": Network()}
    assert len(read(tmp_path / "x", content).state_dict) == len(WEIGHTS)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_runs(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x"
    torch.save({"net": WEIGHTS, "log": Trap(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy)
    assert "Unsupported global: GLOBAL getattr" in refusal(path)
    path.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    assert "whole pickled object" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_network_is_refused_with_the_owners_lines(tmp_path: Path) -> None:
    torch.save(NETWORK, tmp_path / "x.pth")
    assert "torch.save(model.state_dict(), 'x_state_dict.pth')" in refusal(tmp_path / "x.pth")


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(3)], tmp_path / "x")
    assert "expected named tensors" in refusal(tmp_path / "x")


def test_a_zip_that_unpacks_to_more_than_it_has_is_refused(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x")
    with (
        zipfile.ZipFile(tmp_path / "x") as source,
        zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name) if "/data/" not in name else bytes(10**6))
    assert "would unpack to" in refusal(tmp_path / "bomb")


def test_a_view_that_repeats_a_value_without_end_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(1).expand(10**5, 10**5)}, tmp_path / "x")
    assert "larger than the file" in refusal(tmp_path / "x")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "MAX_FILE_BYTES", 100)
    torch.save(WEIGHTS, tmp_path / "x")
    assert "expected at most 100 bytes" in refusal(tmp_path / "x")


def test_a_dictionary_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": torch.tensor(1), "x": 3}
    content["state"] = content
    torch.save(content, tmp_path / "x")
    assert "expected named tensors" in refusal(tmp_path / "x")


def test_damaged_bytes_are_an_error_of_one_line(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x").read_bytes()
    for position in range(200, len(content), 97):
        (tmp_path / "x").write_bytes(content[:position])
        assert "\n" not in refusal(tmp_path / "x")
