"""`dfml adapt`: what cannot be read is not blamed on the output folder."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.cli.conftest import World, dfml, error


def test_a_missing_support_folder_is_named(world: World, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    line = error(dfml("adapt", world.purer, missing, "--out", tmp_path / "out"), 1)
    assert str(missing) in line
    assert "--out" not in line
    assert not list(tmp_path.iterdir())


def test_a_support_folder_that_cannot_be_read_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = world.images / "test"

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(support))

    monkeypatch.setattr("dfml.data.support.read_support", refuse)
    line = error(dfml("adapt", world.purer, support, "--out", tmp_path / "out"), 1)
    assert line == f"error: {support}: Permission denied"
    assert not list(tmp_path.iterdir())


def test_a_classifier_that_cannot_be_written_is_blamed_on_the_output_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dfml.learners.sharing.write_pretrained", refuse)
    out = tmp_path / "out"
    line = error(dfml("adapt", world.purer, world.images / "test", "--out", out), 1)
    assert line == f"error: {out} cannot be written (No space left on device); make room, or choose another --out"
    assert not list(tmp_path.iterdir())
