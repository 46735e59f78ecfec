"""An evaluation of several learners as a file: the self-contained page, Markdown, or comma-separated values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dfml.errors import UsageError
from dfml.evaluation.protocol import Evaluation
from dfml.report.figures import Curve, learning_curve, to_svg
from dfml.report.html_page import Page, PageFigure, describe_episodes, render_page
from dfml.report.table import Table, compare_all, differences_table, results_table, to_csv, to_markdown

Curves = Mapping[str, Curve]
"""Learner -> meta-iteration -> evaluation, of learners whose snapshots were evaluated."""


def check_ending(path: Path) -> None:
    """Make sure that the name of a file says what it is to hold.

    Raises:
        UsageError: If its ending is not one of `.html`, `.md` and `.csv`.
    """
    if path.suffix.lower() not in _RENDER:
        raise UsageError(f"expected a report whose name ends in {', '.join(_RENDER)}, found {path}")


def write_comparison(path: Path, evaluations: Sequence[Evaluation], curves: Curves, command: str) -> None:
    """Write evaluations as the ending of the file's name says.

    Args:
        path: Ends in `.html`, `.md` or `.csv`.
        evaluations: At least one, of the same episodes.
        curves: For the page.
        command: What was typed.

    Raises:
        UsageError: If the ending is another.
        OSError: If the file cannot be written.
    """
    check_ending(path)
    path.write_text(_RENDER[path.suffix.lower()](evaluations, curves, command), encoding="utf-8")


def _page(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    first = evaluations[0]
    about = "Every snapshot of the runs; the best of each counts, so its interval is not a confidence interval."
    figure = (
        [PageFigure("Learning curves", about, to_svg(learning_curve(curves), "curves", themed=True))] if curves else []
    )
    return render_page(
        Page(
            title=f"{first.way}-way {first.shot}-shot on {first.dataset}",
            summary=f"{', '.join(each.name for each in evaluations)}, on the same {len(first.accuracies)} tasks.",
            command=command,
            evaluations=evaluations,
            differences=compare_all(evaluations),
            figures=figure,
            versions=first.versions,
            subjects=len(evaluations),
        )
    )


def _markdown(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    parts = [f"{describe_episodes(evaluations[0])}.\n", to_markdown(results_table(evaluations))]
    if len(evaluations) > 1:
        parts += ["In pairs, on the same episodes:\n", to_markdown(differences_table(compare_all(evaluations)))]
    return "\n".join([*parts, f"```sh\n{command}\n```\n"])


def _csv(evaluations: Sequence[Evaluation], curves: Curves, command: str) -> str:
    """One row a learner, with what was done beside what came out, so that rows of several files can be put together."""
    table = results_table(evaluations)
    about = ("dataset", "protocol", "way", "shot", "query", "seed")
    rows = [
        (*cells, str(len(each.accuracies)), *(str(getattr(each, name)) for name in about))
        for cells, each in zip(table.rows, evaluations, strict=True)
    ]
    return to_csv(Table((*table.headings, "episodes", *about), tuple(rows), table.text_columns))


_RENDER = {".html": _page, ".md": _markdown, ".csv": _csv}
