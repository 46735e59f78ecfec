"""Figures of a run's metrics, drawn from the rows of `metrics.jsonl` and the run's own descriptions of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfml.report.figures import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, new_figure
from dfml.training.loop import MetricDescription

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MetricRow = Mapping[str, Any]
"""One line of `metrics.jsonl`: the meta-iteration and the metrics that it has."""

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, INK)
_SMALLEST = 1e-6  # a loss can reach zero, which a logarithmic axis cannot show
_MAX_PANELS = 3  # in one figure
_MAX_UNDESCRIBED = 6
_MAX_LABEL = 16  # characters per line of an axis label: panels are low


@dataclass(frozen=True)
class MetricFigure:
    """One figure of a run's metrics.

    Attributes:
        title: Names of the panels, separated by commas.
        caption: Captions of the metrics that are drawn.
        figure: The matplotlib figure.
    """

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class _Metric:
    """One metric that the rows contain.

    Attributes:
        name: Its key in the rows.
        description: How it is drawn.
        colour: Its colour.
        rows: The rows that contain it and, if it has an arrow, also the metric at the arrow's end.
    """

    name: str
    description: MetricDescription
    colour: str
    rows: Sequence[MetricRow]

    @property
    def iterations(self) -> list[int]:
        return [row["iteration"] for row in self.rows]

    def values(self, name: str, smallest: float) -> list[float]:
        """Values to draw, of this metric or of the one at its arrow's end (`name`), not below `smallest`."""
        factor = 100.0 if self.description.percent else 1.0
        return [max(factor * row[name], smallest) for row in self.rows]

    @property
    def label(self) -> str:
        return f"{self.description.title} (%)" if self.description.percent else self.description.title


def metric_figures(rows: Sequence[MetricRow], descriptions: Mapping[str, MetricDescription]) -> list[MetricFigure]:
    """Draw a run's metrics against the meta-iteration, at most three panels to a figure.

    Args:
        rows: Lines of `metrics.jsonl`; a metric may be missing from any of them.
        descriptions: Metric -> `TrainingRun.describe_metrics`. A metric without a description is drawn if its name
            ends in `_loss` (the first six of these). A metric that is 0 in every row, such as a loss term of weight 0,
            is not drawn, unless it is a fraction.

    Returns:
        Figures in the order of the descriptions; empty if the rows have nothing to draw.
    """
    panels: dict[str, list[_Metric]] = {}
    for metric in _drawn_metrics(rows, descriptions):
        panels.setdefault(metric.description.panel or metric.description.title, []).append(metric)
    names = list(panels)
    count = math.ceil(len(names) / _MAX_PANELS)
    size = math.ceil(len(names) / count) if count else 1
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    return [_draw_figure({name: panels[name] for name in part}) for part in parts]


def _drawn_metrics(rows: Sequence[MetricRow], descriptions: Mapping[str, MetricDescription]) -> list[_Metric]:
    names = dict.fromkeys(name for row in rows for name in row)
    targets = {each.arrow_to for each in descriptions.values()}
    losses = [name for name in names if name.endswith("_loss") and name not in descriptions and name not in targets]
    described = dict(descriptions)
    described |= {name: MetricDescription(name.replace("_", " ")) for name in losses[:_MAX_UNDESCRIBED]}
    metrics: list[_Metric] = []
    for name, description in described.items():
        needed = {name, description.arrow_to or name}
        selected = [row for row in rows if needed <= row.keys()]
        if selected and (description.percent or any(row[key] for row in selected for key in needed)):
            metrics.append(_Metric(name, description, _COLOURS[len(metrics) % len(_COLOURS)], selected))
    return metrics


def _draw_figure(panels: Mapping[str, Sequence[_Metric]]) -> MetricFigure:
    from matplotlib.ticker import MaxNLocator

    figure, all_axes = new_figure(len(panels))
    for axes, (title, metrics) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, title, metrics)
    all_axes[-1].set_xlabel("meta-iterations")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    captions = [metric.description.caption for metrics in panels.values() for metric in metrics]
    return MetricFigure(", ".join(panels), " ".join(filter(None, captions)), figure)


def _draw_panel(axes: Axes, title: str, metrics: Sequence[_Metric]) -> None:
    logarithmic = all(_can_be_logarithmic(metric) for metric in metrics)
    smallest = _SMALLEST if logarithmic else -math.inf
    for metric in metrics:
        draw = _draw_arrows if metric.description.arrow_to else _draw_curve
        draw(axes, metric, smallest)
    if logarithmic:
        _use_logarithmic_axis(axes)
    elif all(metric.description.percent and _is_between_0_and_1(metric) for metric in metrics):
        axes.set_ylim(0, 102)
    if len(metrics) == 1:
        axes.set_ylabel(textwrap.fill(metrics[0].label, _MAX_LABEL), color=metrics[0].colour, parse_math=False)
        return
    axes.set_ylabel(textwrap.fill(title, _MAX_LABEL), parse_math=False)
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9)
    for text, metric in zip(legend.get_texts(), metrics, strict=True):
        text.set_parse_math(False)
        text.set_color(metric.colour)


def _draw_curve(axes: Axes, metric: _Metric, smallest: float) -> None:
    """Draw every value in a pale line, and the running mean in a strong one."""
    steps, values = metric.iterations, metric.values(metric.name, smallest)
    axes.plot(steps, values, color=metric.colour, linewidth=0.7, alpha=0.35)
    mean = _running_mean(values, max(1, len(values) // 40))
    marker = "o" if len(values) == 1 else None
    axes.plot(steps, mean, color=metric.colour, linewidth=1.8, marker=marker, markersize=4.5, label=metric.label)


def _draw_arrows(axes: Axes, metric: _Metric, smallest: float) -> None:
    """Draw one arrow per row, from the metric to the one that `arrow_to` names."""
    target = metric.description.arrow_to
    assert target is not None
    steps, starts, ends = metric.iterations, metric.values(metric.name, smallest), metric.values(target, smallest)
    count = "1 arrow" if len(steps) == 1 else f"{len(steps)} arrows"
    axes.vlines(steps, starts, ends, color=metric.colour, linewidth=1.2, zorder=4, label=f"{metric.label} ({count})")
    for step, start, end in zip(steps, starts, ends, strict=True):
        axes.plot(step, end, "^" if end >= start else "v", color=metric.colour, markersize=4.5, zorder=4)


def _can_be_logarithmic(metric: _Metric) -> bool:
    names = {metric.name, metric.description.arrow_to or metric.name}
    positive = all(row[name] >= 0 for row in metric.rows for name in names)
    return metric.description.logarithmic and not metric.description.percent and positive


def _is_between_0_and_1(metric: _Metric) -> bool:
    return all(0 <= row[metric.name] <= 1 for row in metric.rows)


def _use_logarithmic_axis(axes: Axes) -> None:
    """Switch to a logarithmic vertical axis with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _running_mean(values: Sequence[float], half_width: int) -> list[float]:
    """Mean of up to `2 * half_width + 1` values around each value; of fewer at the ends."""
    windows = (values[max(0, index - half_width) : index + half_width + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]
