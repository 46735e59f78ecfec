"""Tables of several learners on several data sets (domains): a row per learner, a column per data set and a mean."""

from __future__ import annotations

from collections.abc import Sequence

from dfml.evaluation.combination import mean_over_datasets
from dfml.evaluation.protocol import Evaluation, compare
from dfml.report.table import Table


def by_learner(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, Evaluation]]:
    """Arrange evaluations as learner -> data set -> evaluation, in the order in which they occur."""
    found: dict[str, dict[str, Evaluation]] = {}
    for each in evaluations:
        found.setdefault(each.name, {})[each.dataset] = each
    return found


def domain_means(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Average the evaluations of each learner over its data sets; see `mean_over_datasets`.

    Raises:
        UsageError: If the evaluations of a learner differ in way, shot, query, seed or number of episodes.
    """
    return [mean_over_datasets(list(each.values())) for each in by_learner(evaluations).values()]


def domains_table(evaluations: Sequence[Evaluation]) -> Table:
    """Build a table of accuracies with 95% intervals in percent; with several data sets, their mean is the last column.

    Args:
        evaluations: Evaluations of every learner on every data set, in any order.
    """
    rows = by_learner(evaluations)
    datasets = list(dict.fromkeys(each.dataset for each in evaluations))
    several = len(datasets) > 1
    return Table(
        ("method", *datasets, *(["mean"] if several else [])),
        tuple(
            (
                name,
                *(percent(own[dataset].accuracy, own[dataset].ci) for dataset in datasets),
                *([_mean(own)] if several else []),
            )
            for name, own in rows.items()
        ),
        frozenset({"method"}),
    )


def domain_differences(evaluations: Sequence[Evaluation], pairs: Sequence[tuple[str, str]]) -> Table:
    """Build a table of paired differences in percentage points, with 95% intervals, by data set and for their mean.

    Args:
        evaluations: Evaluations of every learner on every data set; those on one data set are on the same episodes.
        pairs: Names of the learners to compare, (first, second).

    Raises:
        ValueError: If learners of a pair were evaluated on different episodes.
    """
    rows = by_learner(evaluations)
    datasets = list(dict.fromkeys(each.dataset for each in evaluations))
    cells = []
    for first, second in pairs:
        compared = [compare(rows[first][dataset], rows[second][dataset]) for dataset in datasets]
        if len(datasets) > 1:
            compared.append(compare(*(mean_over_datasets(list(rows[name].values())) for name in (first, second))))
        cells.append((f"{first} - {second}", *(f"{100 * each.mean:+.2f} ± {100 * each.ci:.2f}" for each in compared)))
    headings = ("first - second", *datasets, *(["mean"] if len(datasets) > 1 else []))
    return Table(headings, tuple(cells), frozenset({"first - second"}))


def percent(accuracy: float, ci: float) -> str:
    """Format an accuracy and half the width of its interval, both fractions: `57.84 ± 0.91`."""
    return f"{100 * accuracy:.2f} ± {100 * ci:.2f}"


def _mean(own: dict[str, Evaluation]) -> str:
    mean = mean_over_datasets(list(own.values()))
    return percent(mean.accuracy, mean.ci)
