"""Evaluations of learners as a command asks for them: with progress, snapshots of a run, and calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dfml.data.dataset import ImageDataset
from dfml.errors import LearnerError
from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.evaluation.snapshots import best_snapshot, evaluate_snapshots
from dfml.learners import CALIBRATIONS
from dfml.learners.base import Calibration, MetaLearner
from dfml.training.progress import show_progress
from dfml.training.run_folder import list_snapshots


@dataclass(frozen=True)
class LearnerEvaluation:
    """What was found of one learner.

    Attributes:
        evaluation: Its figure.
        curve: Meta-iteration -> figure, where all snapshots of its run were evaluated.
    """

    evaluation: Evaluation
    curve: dict[int, Evaluation] = field(default_factory=dict)


def evaluate_learner(
    learner: MetaLearner,
    name: str,
    folder: Path,
    dataset: ImageDataset,
    *,
    episodes: int,
    protocol: str,
    calibration: Calibration | None = None,
    **settings: Any,
) -> LearnerEvaluation:
    """Evaluate a learner; by the papers' protocol the best snapshot of its run, where there are any.

    Args:
        learner: What is judged.
        name: What it is called in tables.
        folder: Where it came from.
        dataset: Labelled images of its size.
        episodes: See `evaluate`.
        protocol: See `evaluate`.
        calibration: See `evaluate`; its name is added to the learner's.
        **settings: Further ones of `evaluate`.
    """
    settings |= {"episodes": episodes, "protocol": protocol, "calibration": calibration}
    name += f" + {calibration.name}" if calibration else ""
    snapshots = list_snapshots(folder) if protocol == "paper" else []
    if not snapshots:
        with show_progress(name, episodes) as progress:
            found = evaluate(learner, dataset, on_episode=lambda done: progress.update(done, {}), **settings)
        return LearnerEvaluation(replace(found, name=name))
    seen: list[int] = []
    with show_progress(f"{name}: snapshots", len(snapshots)) as progress:

        def report(iteration: int, found: Evaluation) -> None:
            seen.append(iteration)
            progress.update(len(seen), {"accuracy": found.accuracy})

        curve = evaluate_snapshots(folder, dataset, device=learner.device, on_snapshot=report, **settings)
    return LearnerEvaluation(replace(best_snapshot(curve), name=name), curve)


def applicable_calibrations(
    learner: MetaLearner, learners: Sequence[MetaLearner], name: str | None
) -> list[Calibration | None]:
    """How a learner is judged: as it is and, where a calibration is asked for and suits it, calibrated too.

    Raises:
        LearnerError: If the calibration suits none of the learners.
    """
    if name is None:
        return [None]
    chosen = CALIBRATIONS[name]()
    unsuited = [error for each in learners if (error := _mismatch(chosen, each))]
    if len(unsuited) == len(learners):
        raise unsuited[0]
    return [None] if _mismatch(chosen, learner) else [None, chosen]


def _mismatch(calibration: Calibration, learner: MetaLearner) -> LearnerError | None:
    try:
        calibration.check(learner)
    except LearnerError as error:
        return error
    return None


def distinct_names(learners: Sequence[MetaLearner], sources: Sequence[str]) -> list[str]:
    """What each learner is called in tables: its own name, with its source where two have the same."""
    names = [learner.name for learner in learners]
    return [
        f"{name} ({source})" if names.count(name) > 1 else name for name, source in zip(names, sources, strict=True)
    ]
