from __future__ import annotations

import pytest

from dfml.training.progress import PlainProgress, clock, deferred_progress


def test_plain_progress_prints_lines_with_the_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress("train", 4, start=2, interval=0.0) as progress:
        progress.update(3, {"accuracy": 0.5})
        progress.update(4, {})
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("train 3/4  0:00 left  accuracy 0.5")
    assert last.startswith("train 4/4  0:00 left")


def test_a_message_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress("train", 4).message("member a is excluded")
    assert capsys.readouterr().err == "train: member a is excluded\n"


def test_deferred_progress_is_shown_from_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with deferred_progress("invert") as on_step:
        assert not capsys.readouterr().err
        on_step(3, 3, {"loss": 0.25})
    assert capsys.readouterr().err.startswith("invert 3/3  0:00 left  loss 0.25")


def test_seconds_are_shown_as_a_clock() -> None:
    assert (clock(61.0), clock(3723.0)) == ("1:01", "1:02:03")
