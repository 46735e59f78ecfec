from __future__ import annotations

import time

import pytest

from dfml.training.progress import PlainProgress, clock, deferred_progress


def test_plain_progress_prints_lines_with_the_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress("train", 4, interval=0.0) as progress:
        progress.update(3, {"accuracy": 0.5})
        progress.update(4, {})
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("train 3/4  accuracy 0.5")
    assert last.startswith("train 4/4  0:00 left")


def test_a_message_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress("train", 4).message("member a is excluded")
    assert capsys.readouterr().err == "train: member a is excluded\n"


def test_names_of_members_reach_no_terminal_as_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress("m\x1b[2J", 1, interval=0.0) as progress:
        progress.update(1, {})
        progress.message("\u202elabel")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.splitlines()[1] == "m\\x1b[2J: \\u202elabel"


def test_deferred_progress_is_shown_from_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with deferred_progress("invert") as on_step:
        assert not capsys.readouterr().err
        on_step(3, 3, {"loss": 0.25})
    assert capsys.readouterr().err.startswith("invert 3/3  0:00 left  loss 0.25")


def test_seconds_are_shown_as_a_clock() -> None:
    assert (clock(61.0), clock(3723.0)) == ("1:01", "1:02:03")


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
