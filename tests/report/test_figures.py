"""SVG of figures: reproducible, without clashes on one page, in the colours of the page."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from dfml.report.figures import INK, to_svg
from dfml.report.learning_curve import learning_curve
from tests.report.evaluations import evaluation


def test_svg_is_the_same_every_time_and_has_no_metadata() -> None:
    first, second = (to_svg(learning_curve({"purer": {1: evaluation(), 2: evaluation()}})) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    root = ET.fromstring(first)
    assert not [element for element in root.iter() if element.tag.endswith("metadata")]


def test_svgs_of_one_page_share_no_ids_and_take_its_colours() -> None:
    figure = learning_curve({"purer": {1: evaluation(), 2: evaluation()}})
    first, second = (ET.fromstring(to_svg(figure, name, themed=True)) for name in ("one", "two"))
    ids = [{element.get("id") for element in root.iter()} - {None} for root in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    links = {
        value.removeprefix("#") for element in first.iter() for key, value in element.items() if key.endswith("href")
    }
    assert links <= ids[0]
    text = to_svg(figure, "one", themed=True)
    assert f"var(--ink, {INK})" in text
    assert "var(" not in to_svg(figure)
