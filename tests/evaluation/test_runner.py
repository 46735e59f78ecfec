from __future__ import annotations

from pathlib import Path

import pytest

from dfml.errors import LearnerError
from dfml.evaluation import evaluate, evaluate_snapshots
from dfml.evaluation.runner import applicable_calibrations, distinct_names, evaluate_learner
from dfml.learners import ICFIL, Student
from tests.factories import PREPROCESSING

from .small import DATA, QUICK, untrained_protonet


def student() -> Student:
    return Student.untrained("conv4", {}, (3, 2), PREPROCESSING)


def test_a_learner_is_evaluated_under_its_name_with_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_learner(untrained_protonet(), "mine", tmp_path, DATA, protocol="strict", **QUICK)
    assert result.evaluation.name == "mine"
    assert result.evaluation.accuracies == evaluate(untrained_protonet(), DATA, **QUICK).accuracies
    assert not result.curve
    assert capsys.readouterr().err.splitlines()[-1] == "mine 12/12  0:00 left"


def test_only_the_paper_protocol_selects_the_best_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for iteration in (5, 10):
        untrained_protonet("paper", seed=iteration).save_pretrained(tmp_path / "snapshots" / f"{iteration:06d}")
    result = evaluate_learner(untrained_protonet("paper"), "mine", tmp_path, DATA, protocol="paper", **QUICK)
    expected = evaluate_snapshots(tmp_path, DATA, protocol="paper", **QUICK)
    assert {step: found.accuracies for step, found in result.curve.items()} == {
        step: found.accuracies for step, found in expected.items()
    }
    assert result.evaluation.name == "mine"
    assert "maximum over 2 evaluations" in result.evaluation.note
    assert "mine: snapshots 2/2" in capsys.readouterr().err
    assert not evaluate_learner(untrained_protonet(), "mine", tmp_path, DATA, protocol="strict", **QUICK).curve


def test_a_calibration_is_part_of_the_name(tmp_path: Path) -> None:
    settings = {**QUICK, "episodes": 2, "calibration": ICFIL(inversion_steps=1, steps=1)}
    result = evaluate_learner(untrained_protonet(), "mine", tmp_path, DATA, protocol="strict", **settings)
    assert result.evaluation.name == "mine + icfil"


def test_a_calibration_is_applied_where_it_is_supported() -> None:
    supported, unsupported = untrained_protonet(), student()
    learners = [supported, unsupported]
    assert applicable_calibrations(supported, learners, None) == ["own"]
    assert applicable_calibrations(supported, learners, "none") == [None]
    assert applicable_calibrations(unsupported, learners, "icfil") == [None]
    uncalibrated, calibration = applicable_calibrations(supported, learners, "icfil")
    assert uncalibrated is None
    assert isinstance(calibration, ICFIL)
    with pytest.raises(LearnerError, match="icfil calibrates"):
        applicable_calibrations(unsupported, [unsupported], "icfil")


def test_learners_of_the_same_name_are_told_apart_by_their_sources() -> None:
    learners = [untrained_protonet(), student(), untrained_protonet()]
    assert distinct_names(learners, ["a", "b", "c"]) == ["protonet (a)", "student", "protonet (c)"]
