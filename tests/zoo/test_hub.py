"""Members on the Hub: what is fetched, that its commit is recorded, and that the cache is enough."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

import dfml
from dfml.errors import ZooMemberError
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.zoo import Zoo
from dfml.zoo.hub import absolute_path, is_complete, is_hub_id, local_folder
from dfml.zoo.inspection import inspect_zoo
from tests.factories import member, write

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


class FakeHub:
    """A Hub with one repository, and a cache; has the behaviour of `huggingface_hub.snapshot_download`."""

    def __init__(self, path: Path) -> None:
        self.repository, self.cache = path / "repository", path / "cache" / "snapshots"
        self.online, self.asked = True, 0
        self.branches = {"main": COMMIT, "v2": OTHER}
        write(self.repository, member())
        for name in ("pytorch_model.bin", "modeling.py", "onnx/model.onnx", "model.pt"):
            (self.repository / name).parent.mkdir(exist_ok=True)
            (self.repository / name).write_bytes(b"not wanted")

    def snapshot_download(
        self, repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        commit = self.branches.get(revision or "main", revision or "")
        folder = self.cache / commit
        if local_files_only or not self.online:
            if not folder.is_dir():
                raise FileNotFoundError("not cached")
            return str(folder)
        self.asked += 1
        if repository != "someone/birds" or commit not in self.branches.values():
            raise OSError("404: no such repository or revision")
        for file in self.repository.rglob("*"):
            name = str(file.relative_to(self.repository))
            if file.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / name)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return fake


def test_a_member_on_the_hub_is_opened_like_a_folder(hub: FakeHub) -> None:
    zoo = Zoo.open("hf:someone/birds")
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(zoo[0].predict_proba(images), member().predict_proba(images), atol=1e-6)
    assert zoo.name(0) == "someone--birds"
    assert str(zoo.paths[0]) == zoo[0].source == f"hf:someone/birds@{COMMIT}"
    assert {path.name for path in (hub.cache / COMMIT).iterdir()} == {"config.json", "model.safetensors"}
    report = inspect_zoo(Path("hf:someone/birds"))
    assert [(row.name, row.problem) for row in report.members] == [("someone--birds", None)]
    assert report.members[0].sha256


def test_a_branch_is_recorded_as_its_commit_and_the_commit_needs_no_connection(hub: FakeHub) -> None:
    assert str(absolute_path("hf:someone/birds@v2")) == f"hf:someone/birds@{OTHER}"
    hub.online, hub.asked = False, 0
    assert local_folder(f"hf:someone/birds@{OTHER}").name == OTHER
    assert len(Zoo.open(f"hf:someone/birds@{OTHER}")) == 1
    assert local_folder("hf:someone/birds@v2").name == OTHER
    assert not hub.asked
    with pytest.raises(ZooMemberError, match="hf:someone/birds@main: it cannot be fetched from the Hub"):
        Zoo.open("hf:someone/birds@main")


def test_a_learner_that_refers_to_it_is_loaded_from_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    learner = ZooEmbedding().fit(Zoo.open("hf:someone/birds"), device="cpu")
    learner.save_pretrained(tmp_path / "learner")
    hub.online = False
    again: Any = dfml.MetaLearner.from_pretrained(tmp_path / "learner")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.embed(images), learner.embed(images))  # type: ignore[attr-defined]


def test_an_interrupted_download_is_completed(hub: FakeHub) -> None:
    folder = local_folder("hf:someone/birds")
    (folder / "model.safetensors").unlink()
    hub.asked = 0
    assert is_complete(local_folder(f"hf:someone/birds@{COMMIT}"))
    assert hub.asked == 1


def test_shards_make_a_folder_complete(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not is_complete(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1-of-1.safetensors"}}')
    assert not is_complete(tmp_path)
    (tmp_path / "model-1-of-1.safetensors").write_bytes(b"")
    assert is_complete(tmp_path)


@pytest.mark.parametrize("bad", ["hf:", "hf:birds", "hf:a/b/c", "hf:a/b@", "hf:../..@x y", "hf:/etc/passwd"])
def test_what_is_no_id_is_refused_before_anything_is_asked(hub: FakeHub, bad: str) -> None:
    with pytest.raises(ZooMemberError, match="expected hf:OWNER/NAME"):
        Zoo.open(bad)
    assert not hub.asked


def test_a_repository_that_does_not_exist_is_one_line(hub: FakeHub) -> None:
    with pytest.raises(ZooMemberError, match=r"404: no such repository or revision.*check the name"):
        Zoo.open("hf:no/body")


def test_paths_stay_paths(tmp_path: Path) -> None:
    assert not is_hub_id("zoo/hf:a")
    assert absolute_path(tmp_path / "a" / ".." / "b") == (tmp_path / "b").resolve()


def test_a_manifest_names_members_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    write(zoo / "own", member(1))
    content = {"members": [{"path": "hf:someone/birds@v2", "name": "birds"}]}
    (zoo / "zoo.yaml").write_text(yaml.safe_dump(content))
    opened = Zoo.open(zoo)
    assert [opened.name(index) for index in range(2)] == ["birds", "own"]
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(opened[0].predict_proba(images), member().predict_proba(images), atol=1e-6)
    config = opened.member_configs[0]
    assert config is not None
    assert config.details["hub"] == f"hf:someone/birds@{OTHER}"
    report = inspect_zoo(zoo)
    assert [(row.name, row.problem, bool(row.sha256)) for row in report.members] == [
        ("birds", None, True),
        ("own", None, True),
    ]
    content["members"][0]["sha256"] = "0" * 64
    (zoo / "zoo.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ZooMemberError, match="another SHA-256"):
        Zoo.open(zoo)[0]
