"""Tables of evaluations: the same cells for the terminal, Markdown, CSV and the HTML page."""

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
    """A table with text cells.

    Attributes:
        headings: One heading per column.
        rows: One cell per column in each row.
        text_columns: Headings of columns that hold words (left-aligned); the others hold numbers (right-aligned).
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[str] = frozenset()

    def is_text(self, heading: str) -> bool:
        """Return whether a column holds words."""
        return heading in self.text_columns


def results_table(evaluations: Sequence[Evaluation], training_seconds: Mapping[str, float] | None = None) -> Table:
    """Build a table with one row per learner: accuracy and 95% confidence interval in percent, and durations.

    Args:
        evaluations: Any number of evaluations.
        training_seconds: Learner's name -> duration of its training; None omits the column.
    """
    with_notes = any(each.note for each in evaluations)
    headings = ["method", "accuracy %", "± 95% CI", "seconds", "adapt ms", "predict ms"]
    if training_seconds is not None:
        headings[3:4] = ["train s", "evaluate s"]
    rows = []
    for each in evaluations:
        cells = [each.name, f"{100 * each.accuracy:.2f}", f"{100 * each.ci:.2f}"]
        if training_seconds is not None:
            cells.append(f"{training_seconds.get(each.name, 0.0):.1f}")
        cells += [f"{each.seconds:.1f}", f"{each.adapt_ms:.2f}", f"{each.predict_ms:.3f}"]
        rows.append((*cells, each.note) if with_notes else tuple(cells))
    return Table((*headings, "note") if with_notes else tuple(headings), tuple(rows), frozenset({"method", "note"}))


def compare_all(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Compare every two learners, in the order of the evaluations, which must all be on the same episodes."""
    return [compare(one, other) for one, other in combinations(evaluations, 2)]


def differences_table(differences: Sequence[Difference]) -> Table:
    """Build a table with one row per pair: mean difference on the same episodes and its 95% interval, in points."""
    rows = [
        (f"{each.first} - {each.second}", f"{100 * each.mean:+.2f}", f"{100 * each.ci:.2f}") for each in differences
    ]
    return Table(("first - second", "points", "± 95% CI"), tuple(rows), frozenset({"first - second"}))


def to_rich(table: Table) -> RichTable:
    """Convert to a table for the terminal. Print it with markup disabled: cells may contain square brackets."""
    from rich.table import Table as RichTable

    rich_table = RichTable()
    for heading in table.headings:
        rich_table.add_column(heading, justify="left" if table.is_text(heading) else "right")
    for row in table.rows:
        rich_table.add_row(*row)
    return rich_table


def to_markdown(table: Table) -> str:
    """Convert to a table in GitHub-flavoured Markdown."""
    rules = ["---" if table.is_text(heading) else "---:" for heading in table.headings]
    lines = [table.headings, tuple(rules), *table.rows]
    return "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines) + "\n"


def to_csv(table: Table) -> str:
    """Convert to comma-separated values with a line of headings."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.headings, *table.rows])
    return text.getvalue()


def _markdown(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())
