"""Evaluations as `dfml evaluate` runs and shows them. Imported when the verb runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.table import Table

from dfml.cli.output import Output
from dfml.data.dataset import ImageDataset
from dfml.evaluation.protocol import Evaluation, compare, evaluate
from dfml.evaluation.snapshots import best_snapshot, evaluate_snapshots
from dfml.learners.base import MetaLearner
from dfml.training.folder import SNAPSHOTS
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
        **settings: Further ones of `evaluate`.
    """
    settings |= {"episodes": episodes, "protocol": protocol}
    snapshots = list((folder / SNAPSHOTS).glob("*")) if protocol == "paper" else []
    if not snapshots:
        with show_progress(name, episodes) as progress:
            found = evaluate(learner, dataset, on_episode=lambda done: progress.update(done, {}), **settings)
        return Judgement(replace(found, name=name))
    seen: list[int] = []
    with show_progress(f"{name}: snapshots", len(snapshots)) as progress:

        def report(iteration: int, found: Evaluation) -> None:
            seen.append(iteration)
            progress.update(len(seen), {"accuracy": found.accuracy})

        curve = evaluate_snapshots(folder, dataset, on_snapshot=report, **settings)
    return Judgement(replace(best_snapshot(curve), name=name), curve)


def show(output: Output, judgements: list[Judgement]) -> None:
    """Accuracies, and the differences of all pairs."""
    evaluations = [judgement.evaluation for judgement in judgements]
    first = evaluations[0]
    episodes = f"{len(first.accuracies)} episodes, {first.way}-way {first.shot}-shot, {first.query} queries a class"
    output.say(f"{first.dataset}: {episodes}, protocol {first.protocol}, seed {first.seed}")
    table = Table()
    for heading in ("learner", "accuracy %", "± 95% CI", "adapt ms", "predict ms", "seconds"):
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    for each in evaluations:
        figures = (100 * each.accuracy, 100 * each.ci, each.adapt_ms, each.predict_ms, each.seconds)
        table.add_row(each.name, *(f"{figure:.2f}" for figure in figures))
    output.show(table)
    for each in evaluations:
        if each.note:
            output.say(f"{each.name}: {each.note}")
    if len(evaluations) > 1:
        output.say("Differences in pairs, on the same episodes:")
        pairs = Table()
        pairs.add_column("first - second")
        pairs.add_column("points", justify="right")
        pairs.add_column("± 95% CI", justify="right")
        for one, other in combinations(evaluations, 2):
            difference = compare(one, other)
            pairs.add_row(
                f"{difference.first} - {difference.second}",
                f"{100 * difference.mean:+.2f}",
                f"{100 * difference.ci:.2f}",
            )
        output.show(pairs)


def results(judgements: list[Judgement]) -> dict[str, Any]:
    """The same as plain values, figures as fractions."""
    evaluations = [judgement.evaluation for judgement in judgements]
    common = ("dataset", "protocol", "way", "shot", "query", "episodes", "seed", "versions")
    methods: dict[str, dict[str, Any]] = {}
    for judgement in judgements:
        values = judgement.evaluation.as_dict()
        shared = {name: values.pop(name) for name in common}
        curve = {str(step): {"accuracy": found.accuracy, "ci": found.ci} for step, found in judgement.curve.items()}
        methods[values.pop("name")] = {**values, **({"snapshots": curve} if curve else {})}
    pairs = [compare(one, other) for one, other in combinations(evaluations, 2)]
    return {"methods": methods, **shared, "pairs": [vars(pair) for pair in pairs]}
