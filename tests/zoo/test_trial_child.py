"""What the child of a trial answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dfml.zoo import trial, trial_child


@pytest.fixture(autouse=True)
def as_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not limited, and tries nothing in a child of its own."""
    monkeypatch.setattr(trial, "_in_child", True)
    monkeypatch.setattr(trial_child, "limit", lambda seconds, memory: None)


def request(kind: str, path: Path, **arguments: Any) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "arguments": arguments, "seconds": 5, "memory": 2**30}


def test_what_can_be_read_is_answered_by_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}, path)
    assert trial_child.answer(request("checkpoint", path)) == {}


def test_what_cannot_be_read_is_answered_by_a_reason_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02}.")
    found = trial_child.answer(request("checkpoint", tmp_path / "weights.pth"))
    assert "without tensors" in found["reason"]
    assert found["fix"]


def test_any_other_error_is_an_answer_too(tmp_path: Path) -> None:
    found = trial_child.answer(request("checkpoint", tmp_path / "weights.pth", unknown=1))
    assert "TypeError" in found["reason"]


def test_every_request_has_one_line_as_its_answer(tmp_path: Path) -> None:
    lines = "".join(json.dumps(request("checkpoint", tmp_path / name)) + "\n" for name in ("a", "b"))
    answers = io.BytesIO()
    trial_child.serve(io.BytesIO(lines.encode()), answers)
    assert [set(json.loads(line)) for line in answers.getvalue().splitlines()] == [{"reason", "fix"}] * 2
