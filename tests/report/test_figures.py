"""Figures draw whatever a run can hold, and say it in text that stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dfml.evaluation.protocol import Evaluation
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
    baselines = [evaluation(name, 0.31) for name in ("random_init", "random_embedding", "average", "zoo_embedding")]
    figure = learning_curve({"purer": curve}, baselines)
    assert {"purer", "guessing", *(each.name for each in baselines)} <= set(texts(figure))
    assert list(curve.values()) == [*drawn_from(figure, curve)]


def drawn_from(figure: Figure, curve: Mapping[float, Evaluation]) -> list[Evaluation]:
    """The evaluations of a curve that one line of the figure goes through."""
    for line in figure.axes[0].lines:
        if list(line.get_xdata()) == list(curve) and line.get_linestyle() == "-":
            return [e for e, y in zip(curve.values(), line.get_ydata(), strict=True) if y == 100 * e.accuracy]
    return []


def test_learning_curves_of_several_methods_keep_their_own_places() -> None:
    curves = {
        "purer": {0.0: evaluation(mean=0.3), 10.5: evaluation(mean=0.5), 40.0: evaluation(mean=0.6)},
        "free": {0.0: evaluation("free", 0.3), 20.0: evaluation("free", 0.5)},
    }
    figure = learning_curve(curves, [evaluation("average", 0.31)], along="seconds")
    assert {"purer", "free", "average", "seconds"} <= set(texts(figure))
    for curve in curves.values():
        assert list(curve.values()) == drawn_from(figure, curve)
    # The shorter one is carried on to where its name stands.
    (carried,) = (each.get_segments()[0] for each in figure.axes[0].collections if each.get_linestyle()[0][1])
    height = 100 * curves["free"][20.0].accuracy
    assert carried.tolist() == [[20.0, height], [40.0, height]]


def test_any_name_fits_beside_its_line() -> None:
    figure = learning_curve({"purer": {1: evaluation()}}, [evaluation("cost $5 <b>&\n" + "long " * 40)])
    assert "cost $5 <b...g long long" in texts(figure)


def test_learning_curve_does_without_neighbours() -> None:
    assert "purer" in texts(learning_curve({"purer": {0: evaluation()}}))


@pytest.mark.parametrize(("fired", "words"), [((), None), ((3,), "once"), ((3, 5), "2 times")])
def test_each_firing_of_the_switch_is_marked(fired: tuple[int, ...], words: str | None) -> None:
    figure = training_losses(rows(6, fired))
    titles = [text for text in texts(figure) if text.startswith("switch fired")]
    assert titles == ([f"switch fired {words}: loss before and after"] if words else [])
    segments = [segment for collection in figure.axes[0].collections for segment in collection.get_segments()]
    assert [segment.tolist() for segment in segments] == [[[step, 0.1], [step, 0.9]] for step in fired]


def test_distillation_is_drawn_where_there_is_any() -> None:
    metrics = [{**row, "distillation_loss": 1.5 / row["iteration"]} for row in rows(6)]
    assert "distillation loss" in texts(training_losses(metrics))
    assert "distillation loss" not in texts(training_losses(rows(6)))


def test_a_run_that_only_distils_has_its_loss_alone() -> None:
    figure = training_losses([{"iteration": step, "distillation_loss": 1.5 / step} for step in (1, 2, 3)])
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [1.5, 0.75, 0.5]
    assert {"distillation loss", "meta-iterations"} <= set(texts(figure))


def test_episodes_without_accuracy_have_no_empty_panel() -> None:
    distilled = [{"iteration": step, "distillation_loss": 1.5 / step} for step in (1, 2, 3)]
    figure = training_losses([*distilled, {"iteration": 4, "distillation_loss": 0.3, "outer_loss": 2.5}])
    (axes,) = figure.axes
    assert {"outer loss", "distillation loss", "meta-iterations"} <= set(texts(figure))
    assert [list(line.get_xdata()) for line in axes.lines] == [[4], [4], [1, 2, 3, 4], [1, 2, 3, 4]]


def test_losses_of_any_method_are_drawn() -> None:
    metrics = [
        {"iteration": step, "robust_loss": 0.5, "reconstruction_loss": 1 / step, "seconds": 1.0} for step in (1, 2)
    ]
    figure = training_losses(metrics)
    assert [axes.get_ylabel() for axes in figure.axes] == ["robust loss", "reconstruction loss"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [1.0, 0.5]


def test_a_negative_loss_is_drawn_as_it_is() -> None:
    figure = training_losses([{"iteration": step, "ranking_loss": step - 3.0} for step in (1, 2, 3)])
    assert list(figure.axes[0].lines[0].get_ydata()) == [-2.0, -1.0, 0.0]
    assert figure.axes[0].get_yscale() == "linear"


def test_losses_beside_that_of_episodes_have_panels_too() -> None:
    metrics = [{"iteration": 1, "outer_loss": 1.0, "odd$x_loss": 2.0, "accuracy": 0.5}]
    figure = training_losses(metrics)
    assert [axes.get_ylabel() for axes in figure.axes] == ["outer loss", "odd$x loss", "accuracy (%)"]
    assert "odd$x loss" in texts(figure)


def test_no_two_lines_of_a_learning_curve_look_alike() -> None:
    curves = {name: {0: evaluation(name), 1: evaluation(name)} for name in ("zoo_student", "purer", "free")}
    baselines = [evaluation(name) for name in ("init", "embedding", "average", "member", "zoo")]
    root = ET.fromstring(to_svg(learning_curve(curves, baselines)))
    lines = [path.get("style", "") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("clip-path")]
    for width, count in (("stroke-width: 2", len(curves)), ("stroke-width: 1.5", len(baselines))):
        looks = [look for look in lines if width in look.split("; ")]
        assert len(looks) == len(set(looks)) == count


def test_rows_of_a_warm_up_are_left_out() -> None:
    warm_up = [{"iteration": step, "inversion_loss": 1.0} for step in (1, 2)]
    figure = training_losses([*warm_up, *({**row, "iteration": row["iteration"] + 2} for row in rows(3))])
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[3, 4, 5]] * 2
    assert texts(training_losses(warm_up))  # a training that had no time for more


@pytest.mark.parametrize("count", [1, 200])
def test_losses_draw_for_any_length(count: int) -> None:
    for figure in (training_losses(rows(count)), inversion_fidelity(rows(count))):
        assert "meta-iterations" in texts(figure)


def test_a_loss_of_zero_can_be_drawn() -> None:
    metrics = [{**row, "inversion_loss": 0.0, "outer_loss": 0.0} for row in rows(3)]
    assert texts(inversion_fidelity(metrics))
    assert texts(training_losses(metrics))


def test_svg_is_the_same_every_time_and_names_no_other_place() -> None:
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


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted), st.floats(0.1, 10))
def test_labels_are_spread_apart_in_their_order(places: list[float], apart: float) -> None:
    moved = spread(places, apart)
    gaps = [after - before for before, after in pairwise(moved)]
    assert all(gap >= apart * (1 - 1e-6) - 1e-9 for gap in gaps)
    wanted = [after - before for before, after in pairwise(places)]
    if all(gap > apart for gap in wanted):
        assert moved == pytest.approx(places)
    assert sum(moved) == pytest.approx(sum(places), abs=1e-6)
