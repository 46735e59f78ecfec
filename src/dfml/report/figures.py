"""Figures as matplotlib draws them: learning curve, training losses, inversion. No global state of pyplot is touched.

Colours are those of Okabe and Ito, which people see apart whatever their colour vision; lines also differ in their
dashes and are labelled where they end. In an SVG for a page, each colour is a CSS variable, so that a page can have a
dark side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, int | float]
"""One meta-iteration's line of a `metrics.jsonl`."""

BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#b0578d", "#b87700"
INK, FAINT = "#24292f", "#8a9199"
_VARIABLES = {
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    ORANGE: "orange",
    INK: "ink",
    FAINT: "faint",
}
_OTHERS = (ORANGE, GREEN, PURPLE, VERMILION)
_DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
_SIZE = (5.6, 3.5)  # inches: narrow, so that a page may show it on a phone and the words stay readable
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "svg.fonttype": "none",
}
_MOST_MARKERS = 25
_LONGEST = 24  # characters of a name beside a line
_LEAST = 1e-6  # a loss can reach zero, which a logarithm cannot show


def learning_curve(snapshots: Mapping[int, Evaluation], neighbours: Sequence[Evaluation] = ()) -> Figure:
    """Accuracy over meta-iterations with its 95% confidence interval; neighbours, which do not train, as lines across.

    Args:
        snapshots: Meta-iteration -> evaluation; at least one.
        neighbours: Labelled where their lines end.
    """
    figure, (axes,) = _new_figure(1)
    steps = sorted(snapshots)
    means = [100 * snapshots[step].accuracy for step in steps]
    widths = [100 * snapshots[step].ci for step in steps]
    few = len(steps) <= _MOST_MARKERS
    axes.errorbar(
        steps,
        means,
        widths if few else None,
        color=BLUE,
        linewidth=2,
        marker="o" if few else None,
        markersize=4.5,
        capsize=2.5,
        elinewidth=1.1,
        zorder=3,
    )
    labels = [(means[-1], snapshots[steps[-1]].name, BLUE)]
    for index, each in enumerate(neighbours):
        colour, dashes = _OTHERS[index % len(_OTHERS)], _DASHES[index % len(_DASHES)]
        axes.axhline(100 * each.accuracy, color=colour, linestyle=dashes, linewidth=1.5)
        labels.append((100 * each.accuracy, each.name, colour))
    chance = 100 / snapshots[steps[0]].way
    axes.axhline(chance, color=FAINT, linewidth=1)
    labels.append((chance, "guessing", FAINT))
    margin = 0.025 * max(1, steps[-1] - steps[0])
    axes.set_xlim(steps[0] - margin, steps[-1] + margin)
    axes.set_ylim(bottom=max(0.0, min(chance, *(value for value, _, _ in labels)) - 3))
    axes.set(xlabel="meta-iterations", ylabel="accuracy on unseen classes (%)")
    _label_line_ends(axes, labels)
    return figure


def training_losses(metrics: Sequence[Row]) -> Figure:
    """Outer loss and accuracy on pseudo-queries; each firing of the Gradient Switch with the loss before and after it.

    Args:
        metrics: At least one row of PURER's metrics.
    """
    figure, (above, below) = _new_figure(2)
    steps = [row["iteration"] for row in metrics]
    _curve(above, steps, [max(row["outer_loss"], _LEAST) for row in metrics], BLUE)
    _curve(below, steps, [100 * row["accuracy"] for row in metrics], GREEN)
    fired = [row for row in metrics if "switch_loss_before" in row]
    if fired:
        where = [row["iteration"] for row in fired]
        before, after = ([max(row[f"switch_loss_{when}"], _LEAST) for row in fired] for when in ("before", "after"))
        above.vlines(where, before, after, color=VERMILION, linewidth=1.2, zorder=4)
        above.plot(where, after, "^", color=VERMILION, markersize=4.5, zorder=4)
        below.vlines(where, 0, 0.05, transform=below.get_xaxis_transform(), color=VERMILION, linewidth=1.2)
        times = "once" if len(fired) == 1 else f"{len(fired)} times"
        above.set_title(f"switch fired {times}: loss before and after", color=VERMILION, fontsize=9, loc="right")
    _logarithmic(above)
    above.set_ylabel("outer loss")
    below.set(xlabel="meta-iterations", ylabel="accuracy (%)")
    below.set_ylim(0, 102)
    return figure


def inversion_fidelity(metrics: Sequence[Row]) -> Figure:
    """What the members say of the images while they are inverted: cross-entropy, and distance of the statistics.

    Args:
        metrics: At least one row of PURER's metrics.
    """
    figure, (above, below) = _new_figure(2)
    steps = [row["iteration"] for row in metrics]
    _curve(above, steps, [max(row["inversion_loss"], _LEAST) for row in metrics], PURPLE)
    _curve(below, steps, [max(row["batch_norm_distance"], _LEAST) for row in metrics], ORANGE)
    _logarithmic(above)
    _logarithmic(below)
    above.set_ylabel("cross-entropy")
    below.set(xlabel="meta-iterations", ylabel="statistics' distance")
    return figure


def to_svg(figure: Figure, name: str = "", *, themed: bool = False) -> str:
    """An SVG element; text stays text.

    Args:
        figure: As the functions above draw it.
        name: Prefix of the element's ids, so that several fit on one page.
        themed: Colours as CSS variables `--blue`, ..., `--ink`, with the printed colour as their default, and no
            background. Without it: a white background.
    """
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same figure is the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dfml"}):
        figure.savefig(buffer, format="svg", transparent=themed, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    if name:
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    if themed:
        for colour, variable in _VARIABLES.items():
            text = re.sub(colour, f"var(--{variable}, {colour})", text, flags=re.IGNORECASE)
    return text


def _new_figure(panels: int) -> tuple[Figure, list[Axes]]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])


def _curve(axes: Axes, steps: Sequence[int | float], values: Sequence[float], colour: str) -> None:
    """Every value faintly, and their running mean."""
    smooth = _running_mean(values, max(1, len(values) // 40))
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35, marker="." if len(values) == 1 else None)
    axes.plot(steps, smooth, color=colour, linewidth=1.8)


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _running_mean(values: Sequence[float], half: int) -> list[float]:
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _label_line_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right, next to where the lines end, moved apart where they would cover each other."""
    low, high = axes.get_ylim()
    apart = 0.062 * (high - low)
    ordered = sorted(labels)
    places = spread([value for value, _, _ in ordered], apart)
    transform = axes.get_yaxis_transform()
    for (value, name, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            _shorten(name),
            xy=(1.0, value),
            xytext=(1.035, place),
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
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Ascending places, moved as little as needed to be `apart` from each other, around their own middle."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _start(groups[-1], apart) - _end(groups[-2], apart) < apart:
            last = groups.pop()
            groups[-1] += last
    return [_start(group, apart) + index * apart for group in groups for index in range(len(group))]


def _start(group: Sequence[float], apart: float) -> float:
    return sum(group) / len(group) - apart * (len(group) - 1) / 2


def _end(group: Sequence[float], apart: float) -> float:
    return _start(group, apart) + apart * (len(group) - 1)
