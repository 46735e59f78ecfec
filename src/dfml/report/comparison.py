"""Evaluations of several learners as one file: a self-contained HTML page, Markdown, or comma-separated values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dfml.errors import UsageError
from dfml.evaluation.protocol import Evaluation
from dfml.report.domains import domain_means, domains_table
from dfml.report.figures import to_svg
from dfml.report.html_page import Page, PageFigure, PageTable, describe_episodes, render_page
from dfml.report.learning_curve import Curve, learning_curve
from dfml.report.table import Table, compare_all, differences_table, results_table, to_csv, to_markdown

Curves = Mapping[str, Curve]
"""Learner's name -> meta-iteration -> evaluation, for learners whose snapshots were evaluated."""


def check_ending(path: Path) -> None:
    """Check that the file's suffix names a format that a comparison can be written in.

    Raises:
        UsageError: If the suffix is not one of `.html`, `.md` and `.csv`.
    """
    if path.suffix.lower() not in _RENDERERS:
        raise UsageError(f"expected a report file that ends in {', '.join(_RENDERERS)}, found {path}")


def write_comparison(path: Path, evaluations: Sequence[Evaluation], curves: Curves, command: str) -> None:
    """Write evaluations in the format that the file's suffix names.

    Args:
        path: File that ends in `.html`, `.md` or `.csv`.
        evaluations: At least one evaluation; those of several learners on one data set are on the same episodes. With
            several data sets, their mean is shown too, except in `.csv`.
        curves: Learning curves, shown on the HTML page only.
        command: Command that repeats the evaluation.

    Raises:
        UsageError: If the suffix is another one.
        OSError: If the file cannot be written.
    """
    check_ending(path)
    path.write_text(_RENDERERS[path.suffix.lower()](evaluations, curves, command), encoding="utf-8")


def _page(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    means = domain_means(evaluations)
    first = means[0]
    several = len(means) < len(evaluations)
    caption = "All snapshots of each run, with 95% intervals."
    if first.protocol == "paper":
        caption += " The best one is reported, so its interval is not a confidence interval."
    svg = to_svg(learning_curve(curves), "curves", themed=True) if curves else ""
    domains = PageTable("By data set", "Accuracy in percent with its 95% interval.", domains_table(evaluations))
    return render_page(
        Page(
            title=f"{first.task} on {first.dataset}",
            summary=f"{', '.join(each.name for each in means)}, on the same {len(first.accuracies)} episodes.",
            command=command,
            evaluations=means,
            differences=compare_all(means),
            tables=[domains] if several else [],
            figures=[PageFigure("Learning curves", caption, svg)] if svg else [],
            versions=first.versions,
            highlighted=len(means),
        )
    )


def _markdown(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    means = domain_means(evaluations)
    table = results_table(means) if len(means) == len(evaluations) else domains_table(evaluations)
    parts = [f"{describe_episodes(means[0])}.\n", to_markdown(table)]
    if len(means) > 1:
        parts += ["Differences on the same episodes:\n", to_markdown(differences_table(compare_all(means)))]
    return "\n".join([*parts, f"```sh\n{command}\n```\n"])


def _csv(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    """One row per learner and data set, with the conditions in each, so that several files can be concatenated."""
    table = results_table(evaluations)
    conditions = ("dataset", "protocol", "way", "shot", "query", "seed")
    rows = [
        (*cells, str(len(each.accuracies)), *(str(getattr(each, name)) for name in conditions))
        for cells, each in zip(table.rows, evaluations, strict=True)
    ]
    return to_csv(Table((*table.headings, "episodes", *conditions), tuple(rows), table.text_columns))


_RENDERERS = {".html": _page, ".md": _markdown, ".csv": _csv}
