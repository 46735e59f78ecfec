"""The tables, the page, Markdown, CSV and `results.json` of a benchmark."""

from __future__ import annotations

import csv
import json

import pytest

from dfml.benchmark.summary import (
    benchmark_page,
    benchmark_values,
    differences,
    group_table,
    to_report,
    to_rows,
    zoo_table,
)
from dfml.report.html_page import render_page
from tests.benchmark.conftest import Finished
from tests.report.test_html_page import Reader


def test_a_table_has_accuracy_deviation_costs_and_notes(finished: Finished) -> None:
    group = finished.results.groups[0]
    table = group_table(group)
    assert table.headings == (*("method", "glyphs/test", "sd of seeds", "train s", "peak MB", "kept MB", "note"),)
    purer, _, average, failing = table.rows
    row = group.rows[0]
    mean = row.evaluations["glyphs"]
    assert purer[1] == f"{100 * mean.accuracy:.2f} ± {100 * mean.ci:.2f}"
    assert purer[2] == f"{100 * (row.deviation or 0):.2f}"
    assert average[2] == "one seed"
    assert failing == ("failing", "-", "-", "-", "-", "-", "the disk is full")


def test_the_first_method_is_compared_with_all_others(finished: Finished) -> None:
    table = differences(finished.results.groups[0])
    assert table is not None
    assert [row[0] for row in table.rows] == ["purer - zoo_embedding", "purer - average"]


def test_members_are_listed_with_their_held_out_accuracy(finished: Finished) -> None:
    (row,) = zoo_table(finished.results).rows
    accuracies = [100 * each.details["held_out_accuracy"] for each in finished.results.zoos["letters"]]
    assert row[:5] == ("letters", "glyphs", "conv4", "16 x 16", "2")
    assert row[5] == f"{sum(accuracies) / 2:.1f} ({min(accuracies):.1f} to {max(accuracies):.1f})"


def test_the_page_has_tables_differences_curves_images_and_failures(finished: Finished) -> None:
    page = render_page(benchmark_page(finished.plan.options, finished.results, "dfml benchmark small --out out"))
    text = Reader(page).text
    for part in (
        *("letters: 3-way 1-shot", "letters: 4-way 1-to-2-shot", "Paired differences", "purer - average", "Zoos"),
        *("Learning curves: letters", "Recovered images: purer on letters", "dfml benchmark small --out out"),
        "failing on letters, seed 0 failed: the disk is full",
    ):
        assert part in text
    assert "data:image/png" in page


def test_markdown_and_csv_have_all_rows(finished: Finished) -> None:
    options, found = finished.plan.options, finished.results
    report = to_report(options, found, "dfml benchmark small --out out")
    assert report.startswith("# Small\n")
    assert report.count("| purer |") == 2
    assert "```sh\ndfml benchmark small --out out\n```" in report
    rows = list(csv.DictReader(to_rows(options, found).splitlines()))
    assert [(row["method"], row["way"], row["shot"]) for row in rows] == [
        (name, way, shot)
        for way, shot in (("3", "1"), ("4", "1-2"))
        for name in ("purer", "zoo_embedding", "average", "failing")
    ]
    assert rows[0]["seeds"] == "0 1"
    assert (rows[3]["accuracy %"], rows[3]["note"]) == ("", "the disk is full")


def test_values_have_the_shape_of_results(finished: Finished) -> None:
    values = json.loads(json.dumps(benchmark_values(finished.plan.options, finished.results)))
    assert list(values["methods"]) == ["purer", "zoo_embedding", "average"]
    row = finished.results.groups[0].rows[0]
    purer = values["methods"]["purer"]
    assert purer["accuracy"] == pytest.approx(row.mean.accuracy)
    assert purer["seconds"] == row.seconds
    assert purer["seeds"] == {str(seed): value for seed, value in row.seeds.items()}
    assert values["protocol"] == "strict"
    assert [(each["way"], each["shot"]) for each in values["results"]] == [(3, 1), (4, [1, 2])]
    assert values["results"][0]["notes"] == {"failing": ["the disk is full"]}
    assert len(values["zoos"]["letters"]) == 2
    assert list(values["curves"]["letters"]["purer"]) == ["1", "2"]
