"""Evaluations as `dfml evaluate` runs and shows them. Imported when the verb runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dfml.cli.output import Output
from dfml.data.dataset import ImageDataset
from dfml.errors import LearnerError
from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.evaluation.snapshots import best_snapshot, evaluate_snapshots, list_snapshots
from dfml.learners import CALIBRATIONS
from dfml.learners.base import Calibration, MetaLearner
from dfml.report.page import describe_episodes
from dfml.report.results import curve_values, results_values
from dfml.report.table import compare_all, differences_table, results_table, to_rich
from dfml.training.progress import show_progress


@dataclass(frozen=True)
class Judgement:
    """What was found of one learner.

    Attributes:
        evaluation: Its figure.
        curve: Meta-iteration -> figure, where all snapshots of its run were evaluated.
    """

    evaluation: Evaluation
    curve: dict[int, Evaluation] = field(default_factory=dict)


def judge(
    learner: MetaLearner,
    name: str,
    folder: Path,
    dataset: ImageDataset,
    *,
    episodes: int,
    protocol: str,
    calibration: Calibration | None = None,
    **settings: Any,
) -> Judgement:
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
        return Judgement(replace(found, name=name))
    seen: list[int] = []
    with show_progress(f"{name}: snapshots", len(snapshots)) as progress:

        def report(iteration: int, found: Evaluation) -> None:
            seen.append(iteration)
            progress.update(len(seen), {"accuracy": found.accuracy})

        curve = evaluate_snapshots(folder, dataset, device=learner.device, on_snapshot=report, **settings)
    return Judgement(replace(best_snapshot(curve), name=name), curve)


def calibrations(learner: MetaLearner, learners: Sequence[MetaLearner], name: str | None) -> list[Calibration | None]:
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


def show(output: Output, judgements: list[Judgement]) -> None:
    """Accuracies, and the differences of all pairs."""
    evaluations = [judgement.evaluation for judgement in judgements]
    output.say(describe_episodes(evaluations[0]))
    output.show(to_rich(results_table(evaluations)))
    if len(evaluations) > 1:
        output.say("Differences in pairs, on the same episodes:")
        output.show(to_rich(differences_table(compare_all(evaluations))))


def results(judgements: list[Judgement]) -> dict[str, Any]:
    """The same as plain values, figures as fractions."""
    values = results_values([judgement.evaluation for judgement in judgements])
    for judgement in judgements:
        if judgement.curve:
            values["methods"][judgement.evaluation.name]["snapshots"] = curve_values(judgement.curve)
    return values
