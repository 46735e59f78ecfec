"""Figures as matplotlib draws them: learning curve, training losses, inversion. No global state of pyplot is touched.

Colours are those of Okabe and Ito, which people see apart whatever their colour vision; lines also differ in their
dashes and are labelled where they end. In an SVG for a page, each colour is a CSS variable, so that a page can have a
dark side.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, int | float]
"""One meta-iteration's line of a `metrics.jsonl`."""

Curve = Mapping[Any, Evaluation]
"""Meta-iterations (int), or seconds of training (float) -> evaluation."""

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
_CURVES: tuple[tuple[str, str], ...] = (  # and their markers
    *((BLUE, "o"), (VERMILION, "s"), (GREEN, "^")),
    *((PURPLE, "D"), (ORANGE, "v"), (INK, "P")),
)
_OTHERS = (ORANGE, PURPLE, INK)
_LOSSES = (VERMILION, BLUE, PURPLE)
_DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (8, 3)))
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
_MOST_PANELS = 6
_LEAST = 1e-6  # a loss can reach zero, which a logarithm cannot show


def learning_curve(
    curves: Mapping[str, Curve],
    baselines: Sequence[Evaluation] = (),
    along: str = "meta-iterations",
) -> Figure:
    """Accuracy in the course of trainings with its 95% confidence interval; baselines, which do not train, as lines.

    Args:
        curves: By name; at least one, none empty.
        baselines: Labelled where their lines end.
        along: What the axis counts.
    """
    figure, (axes,) = _new_figure(1)
    labels = []
    end: float = max(max(curve) for curve in curves.values())
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = _CURVES[index % len(_CURVES)]
        last = _learning(axes, curve, colour, marker)
        if max(curve) < end:
            axes.hlines(last, max(curve), end, color=colour, linewidth=0.8, linestyle=":")
        labels.append((last, name, colour))
    for index, each in enumerate(baselines):
        colour, dashes = _OTHERS[index % len(_OTHERS)], _DASHES[index % len(_DASHES)]
        axes.axhline(100 * each.accuracy, color=colour, linestyle=dashes, linewidth=1.5)
        labels.append((100 * each.accuracy, each.name, colour))
    evaluations = [each for curve in curves.values() for each in curve.values()]
    chance = 100 / evaluations[0].way
    axes.axhline(chance, color=FAINT, linewidth=1)
    labels.append((chance, "guessing", FAINT))
    start: float = min(min(curve) for curve in curves.values())
    margin = 0.025 * max(1, end - start)
    axes.set_xlim(start - margin, end + margin)
    axes.set_ylim(bottom=max(0.0, min(chance, *(value for value, _, _ in labels)) - 3))
    axes.set(xlabel=along, ylabel="accuracy on unseen classes (%)")
    _label_line_ends(axes, labels)
    return figure


def _learning(axes: Axes, curve: Curve, colour: str, marker: str) -> float:
    """One learning curve; returns where it ends, in percent."""
    steps = sorted(curve)
    means = [100 * curve[step].accuracy for step in steps]
    few = len(steps) <= _MOST_MARKERS
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


def training_losses(metrics: Sequence[Row]) -> Figure:
    """Outer loss and accuracy on pseudo-queries, and what else a method does to its learner.

    That is PURER's Gradient Switch, of which each firing is drawn with the loss before and after it, and the
    distillation of FREE (BELL) and of the zoo student, whose episodes have no accuracy. Of a run without episodes each
    loss is drawn by itself.

    Args:
        metrics: A run's; rows without a loss, such as those of a warm-up, are left out.
    """
    names = dict.fromkeys(name for row in metrics for name in row)
    told = {"outer_loss", "distillation_loss"} if "outer_loss" in names else set()
    others = [name for name in names if name.endswith("_loss") and name not in {"inversion_loss", *told}][:_MOST_PANELS]
    panels = [*(["episodes"] if told else []), *others, *(["accuracy"] if "accuracy" in names else [])]
    figure, axes = _new_figure(max(1, len(panels)))
    fired = _episodes(axes[0], metrics) if told else []
    for index, (name, panel) in enumerate(zip(others, axes[1 if told else 0 :], strict=False)):
        _one_loss(panel, metrics, name, _LOSSES[index % len(_LOSSES)])
    if "accuracy" in names:
        _curve(axes[-1], *_values(metrics, "accuracy", factor=100.0), GREEN)
        axes[-1].vlines(fired, 0, 0.05, transform=axes[-1].get_xaxis_transform(), color=VERMILION, linewidth=1.2)
        axes[-1].set_ylabel("accuracy (%)")
        axes[-1].set_ylim(0, 102)
    axes[-1].set_xlabel("meta-iterations")
    return figure


def _episodes(axes: Axes, metrics: Sequence[Row]) -> list[int | float]:
    """The loss on pseudo-queries, with that of the distillation; returns where the Gradient Switch fired."""
    _curve(axes, *_values(metrics, "outer_loss", least=_LEAST), BLUE)
    steps, distillation = _values(metrics, "distillation_loss", least=_LEAST)
    if distillation:
        _curve(axes, steps, distillation, VERMILION)
        axes.set_title("distillation loss", color=VERMILION, fontsize=9, loc="right")
    fired, before = _values(metrics, "switch_loss_before", least=_LEAST)
    _, after = _values(metrics, "switch_loss_after", least=_LEAST)
    if fired:
        axes.vlines(fired, before, after, color=VERMILION, linewidth=1.2, zorder=4)
        axes.plot(fired, after, "^", color=VERMILION, markersize=4.5, zorder=4)
        times = "once" if len(fired) == 1 else f"{len(fired)} times"
        axes.set_title(f"switch fired {times}: loss before and after", color=VERMILION, fontsize=9, loc="right")
    _logarithmic(axes)
    axes.set_ylabel("outer loss", color=BLUE)
    return fired


def _one_loss(axes: Axes, metrics: Sequence[Row], name: str, colour: str) -> None:
    """On a logarithmic axis, unless it is negative somewhere: some methods' losses are log-likelihoods or cosines."""
    negative = any(row.get(name, 0) < 0 for row in metrics)
    _curve(axes, *_values(metrics, name, least=-math.inf if negative else _LEAST), colour)
    if not negative:
        _logarithmic(axes)
    axes.set_ylabel(name.replace("_", " "), color=colour, parse_math=False)


def inversion_fidelity(metrics: Sequence[Row]) -> Figure:
    """What the members say of the images while they are inverted: cross-entropy, and distance of the statistics.

    Args:
        metrics: A run's; rows without these figures are left out.
    """
    named = {"inversion_loss": ("cross-entropy", PURPLE), "batch_norm_distance": ("statistics' distance", ORANGE)}
    found = [name for name in named if any(name in row for row in metrics)]
    figure, panels = _new_figure(max(1, len(found)))
    for axes, name in zip(panels, found, strict=False):
        label, colour = named[name]
        _curve(axes, *_values(metrics, name, least=_LEAST), colour)
        _logarithmic(axes)
        axes.set_ylabel(label)
    panels[-1].set_xlabel("meta-iterations")
    return figure


def _values(
    metrics: Sequence[Row], name: str, *, factor: float = 1.0, least: float = 0.0
) -> tuple[list[int | float], list[float]]:
    """The meta-iterations that have a figure, and the figure."""
    rows = [row for row in metrics if name in row]
    return [row["iteration"] for row in rows], [max(factor * row[name], least) for row in rows]


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
        width, height = _SIZE
        figure = Figure(figsize=(width, height * max(1.0, panels / 2)), layout="constrained")
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
    begin, end = 10, _LONGEST - 13  # what tells paths apart is at their end
    return name if len(name) <= _LONGEST else f"{name[:begin]}...{name[-end:]}"


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
