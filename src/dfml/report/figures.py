"""What all figures share: colours, an empty matplotlib figure, and its SVG. No global state of pyplot is changed.

The colours are those of Okabe and Ito, which stay distinguishable under common colour vision deficiencies; curves also
differ in dashes or markers. In the SVG of an HTML page each colour is a CSS variable, so that the page can switch to
dark colours.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#b0578d", "#b87700"
INK, FAINT = "#24292f", "#8a9199"
_CSS_VARIABLES = {
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    ORANGE: "orange",
    INK: "ink",
    FAINT: "faint",
}
_SIZE = (5.6, 3.5)  # inches: narrow enough to stay readable on a phone
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


def new_figure(panels: int) -> tuple[Figure, list[Axes]]:
    """Create a figure of panels below each other that share their horizontal axis.

    Args:
        panels: Number of panels, at least 1.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        width, height = _SIZE
        figure = Figure(figsize=(width, height * max(1.0, panels / 2)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])


def to_svg(figure: Figure, name: str = "", *, themed: bool = False) -> str:
    """Render a figure as an SVG element; text stays text.

    Args:
        figure: A matplotlib figure.
        name: Prefix of all ids in the element, so that several figures fit on one page without a clash.
        themed: Write colours as CSS variables `--blue`, ..., `--ink`, `--faint`, with the printed colour as fallback,
            and draw no background. False (default): fixed colours on white.
    """
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same figure gives the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dfml"}):
        figure.savefig(buffer, format="svg", transparent=themed, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    if name:
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    if themed:
        for colour, variable in _CSS_VARIABLES.items():
            text = re.sub(colour, f"var(--{variable}, {colour})", text, flags=re.IGNORECASE)
    return text
