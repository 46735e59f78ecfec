from __future__ import annotations

import time

import pytest

from dfml.training.progress import PlainProgress


def test_time_left_is_estimated_from_the_second_update_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first episode, an evaluation may embed all images: that time says nothing about an episode."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = PlainProgress("evaluate", 600, interval=10.0)
    for seconds, done in ((25.0, 1), (2.0, 101), (10.0, 301), (30.0, 600)):
        now += seconds
        progress.update(done, {"accuracy": 0.5})
    assert capsys.readouterr().err.splitlines() == [
        "evaluate 1/600  accuracy 0.5",
        "evaluate 301/600  0:12 left  accuracy 0.5",  # 300 steps in 12 seconds, 299 remain
        "evaluate 600/600  0:00 left  accuracy 0.5",
    ]


def test_time_left_of_a_resumed_run_comes_from_its_own_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = PlainProgress("train", 104, interval=0.0)
    for done in (101, 102):
        now += 5.0
        progress.update(done, {})
    assert capsys.readouterr().err.splitlines() == ["train 101/104", "train 102/104  0:10 left"]
