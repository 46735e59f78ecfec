"""What `dfml evaluate` does with each learner: evaluates it, or all snapshots of its run, and shows the progress."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

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
    """Result of `evaluate_learner`.

    Attributes:
        evaluation: Evaluation of the learner, or by the protocol `paper` of the best snapshot of its run.
        curve: Evaluations of all snapshots of the run by meta-iteration; empty if they were not evaluated.
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
    calibration: Calibration | Literal["own"] | None = "own",
    snapshots: bool = False,
    **settings: Any,
) -> LearnerEvaluation:
    """Evaluate a learner with progress on standard error; by the protocol `paper`, the best snapshot of its run.

    Args:
        learner: Learner to evaluate.
        name: Name of the learner in tables.
        folder: Folder of the run that trained the learner; need not exist. By the protocol `paper` its snapshots, if it
            has any, are evaluated instead of `learner`.
        dataset: Labelled images of the learner's size.
        episodes: Number of episodes.
        protocol: `strict` or `paper`; see `evaluate`.
        calibration: Calibration of every adapted classifier; its name is added to `name`. `own`: the one that
            belongs to the learner, if there is one, without its name; None: no calibration.
        snapshots: Also evaluate the snapshots of the run by the protocol `strict`, for its learning curve.
        **settings: Further arguments of `evaluate`.

    Raises:
        DfmlError: See `evaluate` and `evaluate_snapshots`.
    """
    settings |= {"episodes": episodes, "protocol": protocol, "calibration": calibration}
    name += f" + {calibration.name}" if isinstance(calibration, Calibration) else ""
    folders = list_snapshots(folder) if snapshots or protocol == "paper" else []
    curve: dict[int, Evaluation] = {}
    if folders:
        curve = _evaluate_snapshots(learner, name, folder, len(folders), dataset, **settings)
    if curve and protocol == "paper":
        return LearnerEvaluation(replace(best_snapshot(curve), name=name), curve)
    with show_progress(name, episodes) as progress:
        evaluation = evaluate(learner, dataset, on_episode=lambda done: progress.update(done, {}), **settings)
    return LearnerEvaluation(replace(evaluation, name=name), curve)


def _evaluate_snapshots(
    learner: MetaLearner, name: str, folder: Path, count: int, dataset: ImageDataset, **settings: Any
) -> dict[int, Evaluation]:
    finished = itertools.count(1)
    with show_progress(f"{name}: snapshots", count) as progress:

        def report(iteration: int, evaluation: Evaluation) -> None:
            progress.update(next(finished), {"accuracy": evaluation.accuracy})

        return evaluate_snapshots(folder, dataset, device=learner.device, on_snapshot=report, **settings)


def applicable_calibrations(
    learner: MetaLearner, learners: Sequence[MetaLearner], name: str | None
) -> list[Calibration | Literal["own"] | None]:
    """List the calibrations with which a learner is evaluated: its own, or none and the requested one if that fits it.

    Args:
        learner: Learner to evaluate, one of `learners`.
        learners: All learners of the command.
        name: Name of the requested calibration, a key of `CALIBRATIONS`, or `none`; None: the learner's own.

    Returns:
        `["own"]`, `[None]` or `[None, calibration]`; None stands for the uncalibrated learner.

    Raises:
        LearnerError: If the calibration supports none of the learners.
    """
    if name is None:
        return ["own"]
    if name == "none":
        return [None]
    calibration = CALIBRATIONS[name]()
    errors = [error for other in learners if (error := _support_error(calibration, other))]
    if len(errors) == len(learners):
        raise errors[0]
    return [None] if _support_error(calibration, learner) else [None, calibration]


def _support_error(calibration: Calibration, learner: MetaLearner) -> LearnerError | None:
    try:
        calibration.check(learner)
    except LearnerError as error:
        return error
    return None


def distinct_names(learners: Sequence[MetaLearner], sources: Sequence[str]) -> list[str]:
    """Return a name in tables for each learner: its own, followed by its source in parentheses if others share it.

    Args:
        learners: Learners of the command.
        sources: Where each learner comes from (its folder, or `METHOD:ZOO`).
    """
    names = [learner.name for learner in learners]
    return [
        f"{name} ({source})" if names.count(name) > 1 else name for name, source in zip(names, sources, strict=True)
    ]
