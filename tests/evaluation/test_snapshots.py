from __future__ import annotations

from pathlib import Path

import pytest

from dfml.errors import LearnerError
from dfml.evaluation import evaluate_snapshots
from dfml.evaluation.snapshots import best_snapshot

from .small import DATA, QUICK, untrained_protonet


def test_the_result_by_the_paper_protocol_is_the_best_snapshot_with_a_note(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        untrained_protonet("paper", seed=iteration).save_pretrained(tmp_path / "snapshots" / f"{iteration:06d}")
    evaluations = evaluate_snapshots(tmp_path, DATA, protocol="paper", **QUICK)
    assert list(evaluations) == [5, 10, 15]
    best = best_snapshot(evaluations)
    assert best.accuracy == max(evaluation.accuracy for evaluation in evaluations.values())
    assert "maximum over 3 evaluations" in best.note
    with pytest.raises(LearnerError, match="expected snapshots of a run"):
        evaluate_snapshots(tmp_path / "snapshots", DATA, protocol="paper", **QUICK)
