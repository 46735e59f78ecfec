"""Which arguments of `dfml evaluate` are learners, and which are data."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.cli.datasets import split_sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("learner", "run/snapshots", "images/cat", "more/dog"):
        Path(folder).mkdir(parents=True)
    Path("learner/config.json").touch()
    Path("data.zip").touch()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("sources", "learners"),
    [
        (["learner", "images"], 1),
        (["learner", "run", "purer:zoo", "images", "data.zip", "glyphs", "more"], 3),
        (["mistyped", "images", "more"], 1),
        (["learner", "mistyped"], 1),
        (["images", "more"], 0),
        (["learner"], 0),
    ],
)
def test_learners_come_before_the_data(sources: list[str], learners: int) -> None:
    assert split_sources(sources) == (sources[:learners], sources[learners:])
