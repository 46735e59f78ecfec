"""Errors of `dfml playground` before there is a page; the page itself is tested in `tests/playground/test_app.py`."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dfml.demo import run
from dfml.playground import server
from tests.cli.conftest import World, dfml, error


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be served; no server is started."""
    calls: list[dict[str, Any]] = []

    @contextmanager
    def serve(learner: Any, source: str, view: Any, **options: Any) -> Iterator[str]:
        calls.append({"learner": learner, "source": source, "view": view, **options})
        yield "http://127.0.0.1:1"

    monkeypatch.setattr(server, "serve_playground", serve)
    monkeypatch.setattr(server, "wait_for_interrupt", lambda: None)
    return calls


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind((server.HOST, 0))
        return str(probe.getsockname()[1])


def test_a_learner_is_served_with_its_zoo(world: World, served: list[dict[str, Any]]) -> None:
    result = dfml("playground", world.purer, "--port", free_port())
    assert result.exit_code == 0, result.stderr
    assert "http://127.0.0.1:1 (Ctrl-C ends it)" in result.stdout
    (call,) = served
    assert call["source"] == str(world.purer)
    assert not call["examples"]
    assert len(call["view"]().rows()) == 2


def test_a_port_in_use_is_an_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"port {port} of this machine is in use" in error(dfml("playground", "--port", port), 1)
    assert not list(tmp_path.iterdir())


def test_a_learner_of_another_version_is_an_error(world: World, tmp_path: Path, served: list[dict[str, Any]]) -> None:
    old = tmp_path / "old"
    shutil.copytree(world.purer, old)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    assert "format version 99" in error(dfml("playground", old, "--port", free_port()), 1)
    assert not served


def test_what_is_no_output_of_invert_is_an_error(world: World, tmp_path: Path, served: list[dict[str, Any]]) -> None:
    result = dfml("playground", world.purer, "--recovered", tmp_path, "--port", free_port())
    assert "expected the output folder of `dfml invert`" in error(result, 1)
    assert not served


def test_without_a_learner_the_quickstarts_is_trained_once(
    world: World, tmp_path: Path, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = []

    def train(folder: Any, **options: Any) -> None:
        trainings.append(folder.path)
        shutil.copytree(world.purer, folder.path / "learner")

    monkeypatch.setattr(run, "train_quickstart_learner", train)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert dfml("playground", "--port", free_port()).exit_code == 0
    assert trainings == [Path("playground")]
    assert [call["source"] for call in served] == ["playground/learner"] * 2
    assert all(call["examples"] for call in served)


def test_an_unfinished_quickstart_is_not_touched(
    tmp_path: Path, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "playground" / "zoo").mkdir(parents=True)
    assert "playground holds no finished learner" in error(dfml("playground", "--port", free_port()), 1)
    assert (tmp_path / "playground" / "zoo").is_dir()
