"""Evaluation of the snapshots of a run: learning curves, and the best snapshot by the protocol `paper`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfml.data.dataset import ImageDataset
from dfml.errors import LearnerError
from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.learners.base import MetaLearner
from dfml.training.run_folder import SNAPSHOTS, list_snapshots


def evaluate_snapshots(
    run: Path,
    dataset: ImageDataset,
    *,
    device: torch.device | None = None,
    on_snapshot: Callable[[int, Evaluation], None] | None = None,
    **settings: Any,
) -> dict[int, Evaluation]:
    """Evaluate every snapshot of a run, on the same episodes.

    Args:
        run: Folder of the run.
        dataset: Labelled images.
        device: Device on which the learners compute; default the CPU.
        on_snapshot: Function that is called after every snapshot with its meta-iteration and its evaluation.
        **settings: Further arguments of `evaluate`.

    Returns:
        Evaluations by meta-iteration, in order.

    Raises:
        LearnerError: If the run has no snapshots, or one of them cannot be loaded.
        DfmlError: Whatever `evaluate` raises.
    """
    folders = list_snapshots(run)
    if not folders:
        raise LearnerError(f"expected snapshots of a run in {run / SNAPSHOTS}, found none; check the path of the run")
    evaluations: dict[int, Evaluation] = {}
    for folder in folders:
        iteration = int(folder.name)
        learner = MetaLearner.from_pretrained(folder).to(device or torch.device("cpu"))
        evaluations[iteration] = evaluate(learner, dataset, **settings)
        if on_snapshot:
            on_snapshot(iteration, evaluations[iteration])
    return evaluations


def best_snapshot(evaluations: dict[int, Evaluation]) -> Evaluation:
    """Select the evaluation of the most accurate snapshot, as the released code of PURER and FREE reports it.

    The selection uses the test classes themselves, so the accuracy is biased upwards; the result's `note` says so.

    Args:
        evaluations: Evaluations by meta-iteration, at least one.
    """
    best = max(evaluations.values(), key=lambda evaluation: evaluation.accuracy)
    note = f"maximum over {len(evaluations)} evaluations: its interval is not a confidence interval"
    return replace(best, note=note)
