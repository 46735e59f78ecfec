"""Evaluations -> tables: one set of cells for the terminal, Markdown, CSV and the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from dfml.evaluation.protocol import Difference, Evaluation, compare

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        headings: One a column.
        rows: One cell a column.
        text_columns: Columns of words, aligned to the left; the others hold figures, aligned to the right.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[str] = frozenset()

    def is_text(self, heading: str) -> bool:
        """Whether a column holds words."""
        return heading in self.text_columns


def results_table(evaluations: Sequence[Evaluation], training_seconds: Mapping[str, float] | None = None) -> Table:
    """One row a learner: accuracy and its 95% confidence interval in percent, and what it costs.

    Args:
        evaluations: Any number.
        training_seconds: By the learner's name; None leaves the column out.
    """
    noted = any(each.note for each in evaluations)
    headings = ["method", "accuracy %", "± 95% CI", "seconds", "adapt ms", "predict ms"]
    if training_seconds is not None:
        headings[3:4] = ["train s", "evaluate s"]
    rows = []
    for each in evaluations:
        cells = [each.name, f"{100 * each.accuracy:.2f}", f"{100 * each.ci:.2f}"]
        if training_seconds is not None:
            cells.append(f"{training_seconds.get(each.name, 0.0):.1f}")
        cells += [f"{each.seconds:.1f}", f"{each.adapt_ms:.2f}", f"{each.predict_ms:.3f}"]
        rows.append((*cells, each.note) if noted else tuple(cells))
    return Table((*headings, "note") if noted else tuple(headings), tuple(rows), frozenset({"method", "note"}))


def compare_all(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Every two learners, in the order of the evaluations; all must be of the same episodes."""
    return [compare(one, other) for one, other in combinations(evaluations, 2)]


def differences_table(differences: Sequence[Difference]) -> Table:
    """One row a pair: the mean difference on the same episodes and its 95% confidence interval, in points."""
    rows = [
        (f"{each.first} - {each.second}", f"{100 * each.mean:+.2f}", f"{100 * each.ci:.2f}") for each in differences
    ]
    return Table(("first - second", "points", "± 95% CI"), tuple(rows), frozenset({"first - second"}))


def to_rich(table: Table) -> RichTable:
    """For a terminal. Cells are other people's words: print it with a console that reads no markup."""
    from rich.table import Table as RichTable

    drawn = RichTable()
    for heading in table.headings:
        drawn.add_column(heading, justify="left" if table.is_text(heading) else "right")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table."""
    rules = ["---" if table.is_text(heading) else "---:" for heading in table.headings]
    lines = [table.headings, tuple(rules), *table.rows]
    return "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines) + "\n"


def to_csv(table: Table) -> str:
    """Comma-separated values with a line of headings."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.headings, *table.rows])
    return text.getvalue()


def _markdown(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())
