"""Metrics of any run are drawn as the run describes them."""

from __future__ import annotations

import pytest

from dfml.report.metric_panels import metric_figures
from dfml.training.loop import MetricDescription
from tests.report.svg import texts

LOSS = MetricDescription("outer loss", "Loss on episodes.", panel="losses")
SWITCH = MetricDescription("switch", "From the loss before to after.", panel="losses", arrow_to="loss_after")
ACCURACY = MetricDescription("accuracy", "On episodes.", percent=True)
DESCRIPTIONS = {"outer_loss": LOSS, "loss_before": SWITCH, "accuracy": ACCURACY}


def rows(count: int, fired: tuple[int, ...] = ()) -> list[dict[str, float]]:
    metrics: list[dict[str, float]] = []
    for step in range(1, count + 1):
        row = {"iteration": step, "outer_loss": 2.0 / step, "accuracy": 0.5, "hidden": 1.0}
        if step in fired:
            row |= {"loss_before": 0.1, "loss_after": 0.9}
        metrics.append(row)
    return metrics


@pytest.mark.parametrize(("fired", "count"), [((), None), ((3,), "1 arrow"), ((3, 5), "2 arrows")])
def test_each_row_with_both_ends_of_an_arrow_is_one_arrow(fired: tuple[int, ...], count: str | None) -> None:
    (drawn,) = metric_figures(rows(6, fired), DESCRIPTIONS)
    labels = [text for text in texts(drawn.figure) if text.startswith("switch")]
    assert labels == ([f"switch ({count})"] if count else [])
    segments = [segment for collection in drawn.figure.axes[0].collections for segment in collection.get_segments()]
    assert [segment.tolist() for segment in segments] == [[[step, 0.1], [step, 0.9]] for step in fired]
    assert ("before to after" in drawn.caption) == bool(fired)


def test_arrows_point_to_their_end() -> None:
    metrics = [{"iteration": 1, "a": 1.0, "b": 2.0}, {"iteration": 2, "a": 2.0, "b": 1.0}]
    (drawn,) = metric_figures(metrics, {"a": MetricDescription("a", arrow_to="b")})
    assert [line.get_marker() for line in drawn.figure.axes[0].lines] == ["^", "v"]


def test_the_end_of_an_arrow_is_no_curve_of_its_own() -> None:
    metrics = [{"iteration": 1, "a_loss": 1.0, "b_loss": 2.0}]
    (drawn,) = metric_figures(metrics, {"a_loss": MetricDescription("a", arrow_to="b_loss")})
    assert drawn.title == "a"


def test_metrics_of_one_panel_share_a_plot_and_have_a_legend() -> None:
    metrics = [{**row, "kl": 1.5 / row["iteration"]} for row in rows(6)]
    descriptions = {"outer_loss": LOSS, "kl": MetricDescription("divergence", panel="losses"), "accuracy": ACCURACY}
    (drawn,) = metric_figures(metrics, descriptions)
    assert drawn.title == "losses, accuracy"
    assert [axes.get_ylabel() for axes in drawn.figure.axes] == ["losses", "accuracy (%)"]
    assert {"outer loss", "divergence", "meta-iterations"} <= set(texts(drawn.figure))
    colours = {line.get_color() for line in drawn.figure.axes[0].lines}
    assert len(colours) == 2


def test_a_metric_alone_in_its_panel_labels_the_axis() -> None:
    (drawn,) = metric_figures([{"iteration": step, "outer_loss": 1.5 / step} for step in (1, 2, 3)], DESCRIPTIONS)
    (axes,) = drawn.figure.axes
    assert list(axes.lines[0].get_ydata()) == [1.5, 0.75, 0.5]
    assert axes.get_ylabel() == "outer loss"
    assert axes.get_legend() is None


def test_fractions_are_drawn_in_percent() -> None:
    (drawn,) = metric_figures(rows(2), {"accuracy": ACCURACY})
    axes = drawn.figure.axes[0]
    assert list(axes.lines[0].get_ydata()) == [50.0, 50.0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == (0, 102)


def test_axes_are_logarithmic_unless_a_value_is_negative_or_the_description_says_linear() -> None:
    def scale(values: tuple[float, ...], **how: bool) -> str:
        metrics = [{"iteration": step, "loss": value} for step, value in enumerate(values, start=1)]
        (drawn,) = metric_figures(metrics, {"loss": MetricDescription("loss", **how)})
        return str(drawn.figure.axes[0].get_yscale())

    assert scale((1.0, 0.0)) == "log"
    assert scale((1.0, -0.1)) == "linear"
    assert scale((1.0, 2.0), logarithmic=False) == "linear"


def test_undescribed_losses_have_panels_of_their_own_after_the_described() -> None:
    metrics = [{"iteration": 1, "odd$x_loss": 2.0, "other": 1.0, "outer_loss": 1.0, "late_loss": -3.0}]
    (drawn,) = metric_figures(metrics, {"outer_loss": LOSS})
    assert [axes.get_ylabel() for axes in drawn.figure.axes] == ["outer loss", "odd$x loss", "late loss"]
    assert "odd$x loss" in texts(drawn.figure)
    assert list(drawn.figure.axes[2].lines[0].get_ydata()) == [-3.0]


def test_many_panels_are_shared_out_to_figures() -> None:
    descriptions = {f"m{index}": MetricDescription(f"metric {index}") for index in range(7)}
    drawn = metric_figures([{"iteration": 1, **dict.fromkeys(descriptions, 1.0)}], descriptions)
    assert [len(each.figure.axes) for each in drawn] == [3, 3, 1]
    many = {f"m{index}_loss": 1.0 for index in range(9)}
    assert sum(len(each.figure.axes) for each in metric_figures([{"iteration": 1, **many}], {})) == 6


def test_a_term_that_is_always_zero_is_not_drawn_but_a_fraction_is() -> None:
    metrics = [{"iteration": step, "outer_loss": 0.0, "accuracy": 0.0} for step in (1, 2)]
    (drawn,) = metric_figures(metrics, DESCRIPTIONS)
    assert drawn.title == "accuracy"


def test_long_labels_are_broken_into_lines() -> None:
    (drawn,) = metric_figures([{"iteration": 1, "far": 1.0}], {"far": MetricDescription("distance of BN statistics")})
    assert drawn.figure.axes[0].get_ylabel() == "distance of BN\nstatistics"


def test_nothing_to_draw_is_no_figure() -> None:
    assert metric_figures([], DESCRIPTIONS) == []
    assert metric_figures([{"iteration": 1, "seconds": 1.0}], DESCRIPTIONS) == []


def test_rows_without_a_metric_are_left_out_of_its_curve() -> None:
    warm_up = [{"iteration": step, "inversion": 1.0} for step in (1, 2)]
    metrics = [*warm_up, *({**row, "iteration": row["iteration"] + 2} for row in rows(3))]
    (drawn,) = metric_figures(metrics, {"outer_loss": LOSS})
    assert [list(line.get_xdata()) for line in drawn.figure.axes[0].lines] == [[3, 4, 5]] * 2


@pytest.mark.parametrize("count", [1, 200])
def test_metrics_of_any_length_can_be_drawn(count: int) -> None:
    (drawn,) = metric_figures(rows(count), DESCRIPTIONS)
    assert "meta-iterations" in texts(drawn.figure)


def test_a_loss_of_zero_can_be_drawn_on_a_logarithmic_axis() -> None:
    (drawn,) = metric_figures([{**row, "outer_loss": row["outer_loss"] - 1.0} for row in rows(2)], DESCRIPTIONS)
    assert texts(drawn.figure)
