"""Evaluations of several learners as one file: a self-contained HTML page, Markdown, or comma-separated values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dfml.errors import UsageError
from dfml.evaluation.protocol import Evaluation
from dfml.report.figures import to_svg
from dfml.report.html_page import Page, PageFigure, describe_episodes, render_page
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
        evaluations: At least one evaluation, all on the same episodes.
        curves: Learning curves, shown on the HTML page only.
        command: Command that repeats the evaluation.

    Raises:
        UsageError: If the suffix is another one.
        OSError: If the file cannot be written.
    """
    check_ending(path)
    path.write_text(_RENDERERS[path.suffix.lower()](evaluations, curves, command), encoding="utf-8")


def _page(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    first = evaluations[0]
    caption = "All snapshots of each run. The best one is reported, so its interval is not a confidence interval."
    svg = to_svg(learning_curve(curves), "curves", themed=True) if curves else ""
    return render_page(
        Page(
            title=f"{first.task} on {first.dataset}",
            summary=f"{', '.join(each.name for each in evaluations)}, on the same {len(first.accuracies)} episodes.",
            command=command,
            evaluations=evaluations,
            differences=compare_all(evaluations),
            figures=[PageFigure("Learning curves", caption, svg)] if svg else [],
            versions=first.versions,
            highlighted=len(evaluations),
        )
    )


def _markdown(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    parts = [f"{describe_episodes(evaluations[0])}.\n", to_markdown(results_table(evaluations))]
    if len(evaluations) > 1:
        parts += [
            "Differences on the same episodes:\n",
            to_markdown(differences_table(compare_all(evaluations))),
        ]
    return "\n".join([*parts, f"```sh\n{command}\n```\n"])


def _csv(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    """One row per learner, with the conditions in every row, so that rows of several files can be concatenated."""
    table = results_table(evaluations)
    conditions = ("dataset", "protocol", "way", "shot", "query", "seed")
    rows = [
        (*cells, str(len(each.accuracies)), *(str(getattr(each, name)) for name in conditions))
        for cells, each in zip(table.rows, evaluations, strict=True)
    ]
    return to_csv(Table((*table.headings, "episodes", *conditions), tuple(rows), table.text_columns))


_RENDERERS = {".html": _page, ".md": _markdown, ".csv": _csv}
