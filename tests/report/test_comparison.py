"""Evaluations are written in the format that the suffix of the file names."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dfml.errors import UsageError
from dfml.report.comparison import check_ending, write_comparison
from tests.report.evaluations import evaluation
from tests.report.test_html_page import Reader

EVALUATIONS = [evaluation("purer", 0.6), evaluation("random_init", 0.3)]
CURVES = {"purer": {1: evaluation("purer", 0.5), 2: evaluation("purer", 0.6)}}


def written(path: Path) -> str:
    write_comparison(path, EVALUATIONS, CURVES, "dfml evaluate a b")
    return path.read_text(encoding="utf-8")


def test_page_has_tables_curves_and_command(tmp_path: Path) -> None:
    text = Reader(written(tmp_path / "report.HTML")).text
    for part in ("5-way 1-shot on glyphs/test", "Paired differences", "Learning curves", "dfml evaluate a b"):
        assert part in text


def test_a_page_without_curves_has_no_figure(tmp_path: Path) -> None:
    write_comparison(tmp_path / "report.html", EVALUATIONS, {}, "dfml evaluate a b")
    assert "Learning curves" not in Reader((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_markdown_has_both_tables(tmp_path: Path) -> None:
    text = written(tmp_path / "report.md")
    assert text.startswith("glyphs/test: 40 episodes, 5-way 1-shot")
    assert "| purer - random_init |" in text
    assert "```sh\ndfml evaluate a b\n```" in text


def test_csv_has_the_conditions_in_every_row(tmp_path: Path) -> None:
    rows = list(csv.DictReader(written(tmp_path / "report.csv").splitlines()))
    assert [row["method"] for row in rows] == ["purer", "random_init"]
    assert all(row["protocol"] == "strict" and row["episodes"] == "40" and row["seed"] == "0" for row in rows)


def test_another_suffix_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\.html, \.md, \.csv"):
        check_ending(Path("report.pdf"))
