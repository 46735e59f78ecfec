"""Evaluations over the course of a training: learning curves, and the papers' choice of the best snapshot."""

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
    """Evaluate every saved learner of a run.

    Args:
        run: The run's folder.
        dataset: Labelled images.
        device: Where the learners compute; None: the CPU.
        on_snapshot: Told the meta-iteration and its evaluation.
        **settings: Of `evaluate`.

    Returns:
        Meta-iteration -> evaluation, in order.

    Raises:
        LearnerError: If the run has no snapshots.
    """
    folders = list_snapshots(run)
    if not folders:
        raise LearnerError(f"expected snapshots of a training in {run / SNAPSHOTS}, found none")
    found: dict[int, Evaluation] = {}
    for folder in folders:
        iteration = int(folder.name)
        learner = MetaLearner.from_pretrained(folder).to(device or torch.device("cpu"))
        found[iteration] = evaluate(learner, dataset, **settings)
        if on_snapshot:
            on_snapshot(iteration, found[iteration])
    return found


def best_snapshot(found: dict[int, Evaluation]) -> Evaluation:
    """The papers' figure: the best of all snapshots on the very classes that it is reported for."""
    best = max(found.values(), key=lambda evaluation: evaluation.accuracy)
    note = f"maximum over {len(found)} evaluations: its interval is not a confidence interval"
    return replace(best, note=note)
