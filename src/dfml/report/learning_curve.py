"""Learning curves: accuracy on unseen classes against meta-iterations or seconds of training, with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import Evaluation
from dfml.report.figures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[Any, Evaluation]
"""Meta-iterations (int) or seconds of training (float) -> evaluation."""

_CURVES: tuple[tuple[str, str], ...] = (  # colour and marker
    *((BLUE, "o"), (VERMILION, "s"), (GREEN, "^")),
    *((PURPLE, "D"), (ORANGE, "v"), (INK, "P")),
)
_BASELINE_COLOURS = (ORANGE, PURPLE, INK)
_DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (8, 3)))
_MAX_MARKERS = 25  # longer curves have neither markers nor error bars
_MAX_LABEL = 24  # characters of a label beside a line


def learning_curve(
    curves: Mapping[str, Curve],
    baselines: Sequence[Evaluation] = (),
    along: str = "meta-iterations",
) -> Figure:
    """Draw accuracy in percent during training, with 95% confidence intervals.

    Args:
        curves: Learner's name -> curve; at least one, none empty.
        baselines: Evaluations of methods without training, drawn as horizontal lines.
        along: Label of the horizontal axis.
    """
    figure, (axes,) = new_figure(1)
    labels = []
    end: float = max(max(curve) for curve in curves.values())
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = _CURVES[index % len(_CURVES)]
        last = _draw_curve(axes, curve, colour, marker)
        if max(curve) < end:
            axes.hlines(last, max(curve), end, color=colour, linewidth=0.8, linestyle=":")
        labels.append((last, name, colour))
    for index, baseline in enumerate(baselines):
        colour, dashes = _BASELINE_COLOURS[index % len(_BASELINE_COLOURS)], _DASHES[index % len(_DASHES)]
        axes.axhline(100 * baseline.accuracy, color=colour, linestyle=dashes, linewidth=1.5)
        labels.append((100 * baseline.accuracy, baseline.name, colour))
    evaluations = [evaluation for curve in curves.values() for evaluation in curve.values()]
    chance = 100 / evaluations[0].way
    axes.axhline(chance, color=FAINT, linewidth=1)
    labels.append((chance, "chance", FAINT))
    start: float = min(min(curve) for curve in curves.values())
    margin = 0.025 * max(1, end - start)
    axes.set_xlim(start - margin, end + margin)
    axes.set_ylim(bottom=max(0.0, min(chance, *(value for value, _, _ in labels)) - 3))
    axes.set(xlabel=along, ylabel="accuracy on unseen classes (%)")
    _label_line_ends(axes, labels)
    return figure


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str) -> float:
    """Draw one curve and return its last accuracy, in percent."""
    steps = sorted(curve)
    means = [100 * curve[step].accuracy for step in steps]
    few = len(steps) <= _MAX_MARKERS
    axes.errorbar(
        steps,
        means,
        [100 * curve[step].ci for step in steps] if few else None,
        color=colour,
        linewidth=2,
        marker=marker if few else None,
        markersize=4.5,
        capsize=2.5,
        elinewidth=1.1,
        zorder=3,
    )
    return means[-1]


def _label_line_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write names at the right end of their lines, moved apart where they would overlap.

    Args:
        axes: The plot.
        labels: (value at the line's end, name, colour) per line.
    """
    low, high = axes.get_ylim()
    ordered = sorted(labels)
    heights = spread([value for value, _, _ in ordered], 0.062 * (high - low))
    transform = axes.get_yaxis_transform()
    for (value, name, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            _shorten(name),
            xy=(1.0, value),
            xytext=(1.035, height),
            xycoords=transform,
            textcoords=transform,
            color=colour,
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _shorten(name: str) -> str:
    name = " ".join(name.split())
    begin, end = 10, _MAX_LABEL - 13  # paths usually differ in their last characters
    return name if len(name) <= _MAX_LABEL else f"{name[:begin]}...{name[-end:]}"


def spread(values: Sequence[float], distance: float) -> list[float]:
    """Move values apart until neighbouring ones differ by at least `distance`; their mean does not change.

    Args:
        values: Ascending.
        distance: Smallest difference in the result.
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _lowest(groups[-1], distance) - _highest(groups[-2], distance) < distance:
            last = groups.pop()
            groups[-1] += last
    return [_lowest(group, distance) + index * distance for group in groups for index in range(len(group))]


def _lowest(group: Sequence[float], distance: float) -> float:
    """Lowest value of a group that is spread evenly around its mean."""
    return sum(group) / len(group) - distance * (len(group) - 1) / 2


def _highest(group: Sequence[float], distance: float) -> float:
    return _lowest(group, distance) + distance * (len(group) - 1)
