"""All model files below a folder are found; links out, FIFOs and deep folders cannot trap the search."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dfml.zoo import candidates
from dfml.zoo.candidates import find_candidates
from dfml.zoo.sniffing import Kind
from tests.factories import ZooMaker


def _weights(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.ones(2)}, path)
    return path


def test_files_of_nested_folders_are_found_in_order(tmp_path: Path) -> None:
    paths = [_weights(tmp_path / name) for name in ("b/c/deep.pth", "a.pth", "b/x.pt")]
    (tmp_path / "b" / "README.md").write_text("text")
    _weights(tmp_path / ".hidden" / "x.pth")
    found = find_candidates(tmp_path)
    assert [each.path for each in found.models] == sorted(paths)
    assert found.others == [tmp_path / "b" / "README.md"]


def test_a_folder_that_is_a_model_is_one_entry(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member("a")
    _weights(folder / "pytorch_model.bin")
    (only,) = find_candidates(zoo_maker.path).models
    assert (only.path, only.kind) == (folder, Kind.TIMM)
    assert find_candidates(zoo_maker.path, [folder]).models == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = _weights(tmp_path / "outside" / "secret.pth")
    zoo = tmp_path / "zoo"
    inside = _weights(zoo / "a.pth")
    (zoo / "b.pth").symlink_to(inside)
    (zoo / "c.pth").symlink_to(outside)
    (zoo / "d").symlink_to(outside.parent)
    (zoo / "e").symlink_to(zoo)
    (zoo / "f").symlink_to(tmp_path / "nowhere")
    found = {each.path.name: each for each in find_candidates(zoo).models}
    assert set(found) == {"a.pth", "c.pth", "d", "f"}
    assert "link to outside" in str(found["c.pth"].reason)
    assert "link to outside" in str(found["d"].reason)
    assert "link to nothing" in str(found["f"].reason)


def test_a_fifo_is_an_entry_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (only,) = find_candidates(tmp_path).models
    assert only.kind is Kind.SPECIAL


@pytest.mark.parametrize(("limit", "value"), [("_MAX_ENTRIES", 3), ("_MAX_DEPTH", 2)])
def test_the_search_is_bounded_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(candidates, limit, value)
    for name in ("a/b/c/d/e.pth", "f.pth", "g.pth", "h.pth"):
        _weights(tmp_path / name)
    found = find_candidates(tmp_path)
    assert [each for each in found.models if "was not looked at" in str(each.reason)]
