"""Figures draw whatever a run can hold, and say it in text that stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dfml.report.figures import INK, inversion_fidelity, learning_curve, spread, to_svg, training_losses
from tests.report.evaluations import evaluation


def rows(count: int, fired: tuple[int, ...] = ()) -> list[dict[str, float]]:
    metrics: list[dict[str, float]] = []
    for step in range(1, count + 1):
        row = {"iteration": step, "outer_loss": 2.0 / step, "accuracy": 0.5, "inversion_loss": 1.0 / step}
        row["batch_norm_distance"] = 10.0
        if step in fired:
            row |= {"switch_loss_before": 0.1, "switch_loss_after": 0.9}
        metrics.append(row)
    return metrics


def texts(figure: Figure) -> list[str]:
    root = ET.fromstring(to_svg(figure))
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("snapshots", [1, 2, 60])
def test_learning_curve_names_every_line(snapshots: int) -> None:
    curve = {100 * (index + 1): evaluation(mean=0.3 + 0.005 * index) for index in range(snapshots)}
    neighbours = [evaluation(name, 0.31) for name in ("random_init", "random_embedding", "average", "zoo_embedding")]
    figure = learning_curve(curve, neighbours)
    assert {"purer", "guessing", *(each.name for each in neighbours)} <= set(texts(figure))
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == snapshots and line.get_linestyle() == "-"]
    assert any(list(line.get_ydata()) == [100 * each.accuracy for each in curve.values()] for line in drawn)


def test_any_name_fits_beside_its_line() -> None:
    figure = learning_curve({1: evaluation()}, [evaluation("cost $5 <b>&\n" + "long " * 40)])
    assert "cost $5 <b>& long lon..." in texts(figure)


def test_learning_curve_does_without_neighbours() -> None:
    assert "purer" in texts(learning_curve({0: evaluation()}))


@pytest.mark.parametrize(("fired", "words"), [((), None), ((3,), "once"), ((3, 5), "2 times")])
def test_each_firing_of_the_switch_is_marked(fired: tuple[int, ...], words: str | None) -> None:
    figure = training_losses(rows(6, fired))
    titles = [text for text in texts(figure) if text.startswith("switch fired")]
    assert titles == ([f"switch fired {words}: loss before and after"] if words else [])
    segments = [segment for collection in figure.axes[0].collections for segment in collection.get_segments()]
    assert [segment.tolist() for segment in segments] == [[[step, 0.1], [step, 0.9]] for step in fired]


@pytest.mark.parametrize("count", [1, 200])
def test_losses_draw_for_any_length(count: int) -> None:
    for figure in (training_losses(rows(count)), inversion_fidelity(rows(count))):
        assert "meta-iterations" in texts(figure)


def test_a_loss_of_zero_can_be_drawn() -> None:
    metrics = [{**row, "inversion_loss": 0.0, "outer_loss": 0.0} for row in rows(3)]
    assert texts(inversion_fidelity(metrics))
    assert texts(training_losses(metrics))


def test_svg_is_the_same_every_time_and_names_no_other_place() -> None:
    first, second = (to_svg(learning_curve({1: evaluation(), 2: evaluation()})) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    root = ET.fromstring(first)
    assert not [element for element in root.iter() if element.tag.endswith("metadata")]


def test_svgs_of_one_page_share_no_ids_and_take_its_colours() -> None:
    figure = learning_curve({1: evaluation(), 2: evaluation()})
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


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted), st.floats(0.1, 10))
def test_labels_are_spread_apart_in_their_order(places: list[float], apart: float) -> None:
    moved = spread(places, apart)
    gaps = [after - before for before, after in pairwise(moved)]
    assert all(gap >= apart * (1 - 1e-6) - 1e-9 for gap in gaps)
    wanted = [after - before for before, after in pairwise(places)]
    if all(gap > apart for gap in wanted):
        assert moved == pytest.approx(places)
    assert sum(moved) == pytest.approx(sum(places), abs=1e-6)
