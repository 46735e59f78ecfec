"""TorchScript and `.pt2` run code when they are opened: only files that the user pinned are."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from dfml.errors import ZooMemberError
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.pinned_code import ALLOWED
from dfml.zoo.vetting import load_member, read_member_config
from tests.factories import images

SIZE = 12
ENTRY = {"name": "m", "labels": ["ant", "bee"], "size": SIZE, "mean": 0.5, "std": 0.25}
PREPARATION = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).eval()


class Floor(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.floor(x)


def save(path: Path, kind: str, model: nn.Module) -> Path:
    path.parent.mkdir(exist_ok=True)
    example = torch.zeros(1, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.save(torch.jit.trace(model, example), path)  # type: ignore[no-untyped-call]
        else:
            torch.export.save(torch.export.export(model, (example,)), path)
    return path


def write_entry(file: Path, **entry: Any) -> Path:
    content = {"members": [{"path": file.name, **ENTRY, **entry}]}
    (file.parent / "zoo.yaml").write_text(yaml.safe_dump(content))
    return file.parent / "zoo.yaml#m"


def pin(file: Path) -> dict[str, Any]:
    """Entries that pin a file; the user allows its code in the environment too."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    os.environ[ALLOWED] = f"{'1' * 64},{digest}"
    return {"allow_code": True, "sha256": digest}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "")  # restored after every test


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_zoo_cannot_pin_its_own_files(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "zoo" / "model.bin", kind, network())
    path = write_entry(file, format=kind, **pin(file))
    for value in ("", "0" * 64):
        monkeypatch.setenv(ALLOWED, value)
        with pytest.raises(ZooMemberError, match=r"only zoo\.yaml allows it.*set DFML_ALLOW_CODE="):
            load_member(read_member_config(path))


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_pinned_file_is_a_differentiable_member(tmp_path: Path, kind: str) -> None:
    model = network(nn.ReLU())
    file = save(tmp_path / "zoo" / "model.bin", kind, model)
    write_entry(file, format=kind, **pin(file))
    zoo = Zoo.open(tmp_path / "zoo")
    member = zoo.classifier(0)
    batch = images(3, size=SIZE)
    expected = PretrainedClassifier(network(nn.ReLU()), ("ant", "bee"), PREPARATION)
    torch.testing.assert_close(member.logits(batch), expected.logits(batch), rtol=1e-4, atol=1e-5)
    inputs = batch.clone().requires_grad_(True)
    member.logits(inputs)[:, 0].sum().backward()
    assert inputs.grad is not None
    assert bool(inputs.grad.any())
    assert [(row.name, row.problem) for row in inspect_zoo(tmp_path / "zoo").members] == [("m", None)]


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_what_is_not_pinned_is_never_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was opened")

    file = save(tmp_path / "zoo" / "model.bin", kind, network())
    pinned = pin(file)
    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch.export, "load", refuse)
    for entry, reason in (
        ({}, f"opens only those that you have pinned.*allow_code: true, and sha256: {pinned['sha256']}"),
        ({"allow_code": True}, "is not the one that is pinned"),
        ({"sha256": pinned["sha256"]}, "opens only those that you have pinned"),
        ({"allow_code": True, "sha256": "0" * 64}, "has another SHA-256"),
    ):
        path = write_entry(file, format=kind, **entry)
        with pytest.raises(ZooMemberError, match=reason):
            load_member(read_member_config(path))


def test_without_gradients_it_only_predicts(tmp_path: Path) -> None:
    file = save(tmp_path / "zoo" / "model.pt", "torchscript", network(Floor()))
    member = load_member(read_member_config(write_entry(file, format="torchscript", **pin(file))))
    assert isinstance(member, BlackBoxClassifier)
    assert "no usable gradient" in member.reason
    batch = images(3, size=SIZE)
    expected = network(Floor())(PREPARATION.normalise(batch)).softmax(dim=1)
    torch.testing.assert_close(member.predict_proba(batch), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_are_not_taken_for_logits(tmp_path: Path) -> None:
    file = save(tmp_path / "zoo" / "model.pt", "torchscript", nn.Sequential(network(), nn.Softmax(dim=1)).eval())
    path = write_entry(file, format="torchscript", **pin(file))
    with pytest.raises(ZooMemberError, match=r"outputs are probabilities.*state `output: softmax`"):
        load_member(read_member_config(path))
    member = load_member(read_member_config(write_entry(file, format="torchscript", output="softmax", **pin(file))))
    batch = images(3, size=SIZE)
    expected = network()(PREPARATION.normalise(batch)).softmax(dim=1)
    torch.testing.assert_close(member.predict_proba(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": ["a", "b", "c"]}, "2 outputs for 3 labels"),
        ({"channels": 1}, "cannot classify images"),
        ({"format": "pt2"}, "cannot be opened as .pt2"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    file = save(tmp_path / "zoo" / "model.pt", "torchscript", network())
    path = write_entry(file, **{"format": "torchscript", **pin(file), **changes})
    with pytest.raises(ZooMemberError, match=reason):
        load_member(read_member_config(path))
