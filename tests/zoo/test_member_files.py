"""Reading of members' files: what is damaged, or no file at all, ends with one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dfml.errors import ZooMemberError
from dfml.zoo import member_files
from dfml.zoo.member_files import read_json, read_safetensors


def test_json_and_safetensors_come_back_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"labels": ["é"]}', encoding="utf-8")
    assert read_json(tmp_path, "a.json") == {"labels": ["é"]}
    save_file({"w": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert read_safetensors(tmp_path, tmp_path / "a.safetensors")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "not valid JSON"), (b"[" * 100_000, "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (None, "No such")],
    ids=["truncated", "nested", "no text", "missing"],
)
def test_damaged_json_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ZooMemberError, match=reason):
        read_json(tmp_path, "config.json")


def test_json_of_any_length_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_files, "MAX_JSON_BYTES", 10)
    (tmp_path / "config.json").write_text('{"a": "long"}')
    with pytest.raises(ZooMemberError, match="more than 10 bytes"):
        read_json(tmp_path, "config.json")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ZooMemberError, match="cannot be read"):
        read_json(tmp_path, "config.json")
    with pytest.raises(ZooMemberError, match="cannot be read"):
        read_safetensors(tmp_path, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"), (b"\xff" * 64, "damaged"), (b"", "damaged")],
    ids=["pointer", "noise", "empty"],
)
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ZooMemberError, match=reason):
        read_safetensors(tmp_path, tmp_path / "model.safetensors")
