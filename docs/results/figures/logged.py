"""Read the figures of a logged table, and the style that all pictures of the results share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

HERE = Path(__file__).resolve().parent

# Okabe and Ito's colours: told apart with any colour vision.
BLUE, VERMILION, GREEN, PURPLE, INK, GREY = "#0072b2", "#d55e00", "#009e73", "#b0578d", "#24292f", "#6e7781"

STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.2,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "dfml",
}


def rows(day: str, table: str, **wanted: Any) -> list[dict[str, Any]]:
    """Rows of a table of `docs/results/log/DAY.results.json`.

    Args:
        day: Date of the log, YYYY-MM-DD.
        table: Name of the table.
        **wanted: Values that a row must have; None means that the row does not have the key.

    Returns:
        The rows, each with the entries of its table that it does not replace.

    Raises:
        LookupError: If no row has these values.
    """
    log = json.loads((HERE.parent / "log" / f"{day}.results.json").read_text(encoding="utf-8"))
    about = dict(log["tables"][table])
    found = [about | row for row in about.pop("rows")]
    found = [row for row in found if all(row.get(key) == value for key, value in wanted.items())]
    if not found:
        raise LookupError(f"no row of {table} in the log of {day} has {wanted}")
    return found


def percent(found: list[dict[str, Any]], key: str = "accuracy") -> list[float]:
    """A column of rows in percent; 0 where a row has no such figure."""
    return [100.0 * row.get(key, 0.0) for row in found]
