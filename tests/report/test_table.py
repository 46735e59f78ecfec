"""Tables show exactly the numbers of the evaluations, in every format."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dfml.evaluation.protocol import compare
from dfml.report.table import (
    Table,
    compare_all,
    differences_table,
    results_table,
    to_csv,
    to_markdown,
    to_rich,
)
from tests.report.evaluations import evaluation


def test_rows_hold_accuracy_and_interval_in_percent() -> None:
    evaluations = [evaluation("purer", 0.6), evaluation("random_init", 0.3)]
    table = results_table(evaluations)
    assert table.headings == ("method", "accuracy %", "± 95% CI", "seconds", "adapt ms", "predict ms")
    for row, each in zip(table.rows, evaluations, strict=True):
        assert row[0] == each.name
        assert float(row[1]) == pytest.approx(100 * np.mean(each.accuracies), abs=0.005)
        standard_error = np.std(each.accuracies, ddof=1) / np.sqrt(len(each.accuracies))
        assert float(row[2]) == pytest.approx(196 * standard_error, abs=0.005)
        assert row[3:] == ("1.2", "3.46", "0.123")


def test_training_seconds_and_notes_have_columns_if_there_are_any() -> None:
    evaluations = [evaluation("purer", note="maximum over 3 evaluations"), evaluation("average")]
    table = results_table(evaluations, {"purer": 61.04})
    assert table.headings[3:5] == ("train s", "evaluate s")
    assert [row[3] for row in table.rows] == ["61.0", "0.0"]
    assert [row[-1] for row in table.rows] == ["maximum over 3 evaluations", ""]
    assert table.is_text("note")
    assert not table.is_text("accuracy %")


def test_differences_are_paired_and_signed() -> None:
    first, second, third = (evaluation(name, mean) for name, mean in (("a", 0.6), ("b", 0.3), ("c", 0.5)))
    pairs = compare_all([first, second, third])
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    rows = differences_table(pairs).rows
    assert rows[0][0] == "a - b"
    assert float(rows[0][1]) == pytest.approx(100 * (first.accuracy - second.accuracy), abs=0.005)
    assert rows[2][1].startswith("-")
    assert float(rows[1][2]) == pytest.approx(100 * compare(first, third).ci, abs=0.005)


@given(st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=2), max_size=4))
def test_csv_keeps_every_cell(cells: list[list[str]]) -> None:
    # Python's CSV reader changes carriage returns and NUL.
    cells = [[cell.replace("\r", " ").replace("\0", " ") for cell in row] for row in cells]
    table = Table(("one", "two"), tuple(tuple(row) for row in cells))
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["one", "two"], *cells]


def test_markdown_escapes_cells() -> None:
    table = Table(("method", "n"), (("a | b\nc", "1"), ("back\\slash", "2")), frozenset({"method"}))
    assert to_markdown(table) == "| method | n |\n| --- | ---: |\n| a \\| b c | 1 |\n| back\\\\slash | 2 |\n"


def test_terminal_shows_the_same_cells() -> None:
    table = results_table([evaluation("[bold]purer", 0.5)], {})
    console = Console(width=120, markup=False, record=True, file=io.StringIO())
    console.print(to_rich(table))
    shown = console.export_text()
    assert all(cell in shown for cell in (*table.headings, *table.rows[0]))
