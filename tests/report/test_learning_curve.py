"""A learning curve names every line and keeps every point."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dfml.evaluation.protocol import Evaluation
from dfml.report.figures import to_svg
from dfml.report.learning_curve import learning_curve, spread
from tests.report.evaluations import evaluation
from tests.report.svg import texts


@pytest.mark.parametrize("snapshots", [1, 2, 60])
def test_learning_curve_names_every_line(snapshots: int) -> None:
    curve = {100 * (index + 1): evaluation(mean=0.3 + 0.005 * index) for index in range(snapshots)}
    baselines = [evaluation(name, 0.31) for name in ("random_init", "random_embedding", "average", "zoo_embedding")]
    figure = learning_curve({"purer": curve}, baselines)
    assert {"purer", "chance", *(each.name for each in baselines)} <= set(texts(figure))
    assert list(curve.values()) == [*drawn_from(figure, curve)]


def drawn_from(figure: Figure, curve: Mapping[float, Evaluation]) -> list[Evaluation]:
    """The evaluations of a curve whose accuracies are the heights of one line."""
    for line in figure.axes[0].lines:
        if list(line.get_xdata()) == list(curve) and line.get_linestyle() == "-":
            return [e for e, y in zip(curve.values(), line.get_ydata(), strict=True) if y == 100 * e.accuracy]
    return []


def test_learning_curves_of_several_methods_have_their_own_horizontal_axis_values() -> None:
    curves = {
        "purer": {0.0: evaluation(mean=0.3), 10.5: evaluation(mean=0.5), 40.0: evaluation(mean=0.6)},
        "free": {0.0: evaluation("free", 0.3), 20.0: evaluation("free", 0.5)},
    }
    figure = learning_curve(curves, [evaluation("average", 0.31)], along="seconds")
    assert {"purer", "free", "average", "seconds"} <= set(texts(figure))
    for curve in curves.values():
        assert list(curve.values()) == drawn_from(figure, curve)
    # A dotted line extends the shorter curve to its label.
    (extension,) = (each.get_segments()[0] for each in figure.axes[0].collections if each.get_linestyle()[0][1])
    height = 100 * curves["free"][20.0].accuracy
    assert extension.tolist() == [[20.0, height], [40.0, height]]


def test_any_name_fits_beside_its_line() -> None:
    figure = learning_curve({"purer": {1: evaluation()}}, [evaluation("cost $5 <b>&\n" + "long " * 40)])
    assert "cost $5 <b...g long long" in texts(figure)


def test_learning_curve_needs_no_baselines() -> None:
    assert "purer" in texts(learning_curve({"purer": {0: evaluation()}}))


def test_no_two_lines_of_a_learning_curve_look_alike() -> None:
    curves = {name: {0: evaluation(name), 1: evaluation(name)} for name in ("zoo_student", "purer", "free")}
    baselines = [evaluation(name) for name in ("init", "embedding", "average", "member", "zoo")]
    root = ET.fromstring(to_svg(learning_curve(curves, baselines)))
    lines = [path.get("style", "") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("clip-path")]
    for width, count in (("stroke-width: 2", len(curves)), ("stroke-width: 1.5", len(baselines))):
        looks = [look for look in lines if width in look.split("; ")]
        assert len(looks) == len(set(looks)) == count


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted), st.floats(0.1, 10))
def test_labels_are_spread_apart_in_their_order(values: list[float], distance: float) -> None:
    moved = spread(values, distance)
    gaps = [after - before for before, after in pairwise(moved)]
    assert all(gap >= distance * (1 - 1e-6) - 1e-9 for gap in gaps)
    wanted = [after - before for before, after in pairwise(values)]
    if all(gap > distance for gap in wanted):
        assert moved == pytest.approx(values)
    assert sum(moved) == pytest.approx(sum(values), abs=1e-6)
