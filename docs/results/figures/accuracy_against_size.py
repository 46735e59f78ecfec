"""Draw accuracy on unseen classes against the size of what a method keeps: `accuracy_against_size.svg`.

uv run python docs/results/figures/accuracy_against_size.py

CIFAR-FS, 100 classifiers of the recipe `strong`, 5-way 5-shot, protocol `strict`, 600 episodes, seed 0.
"""

from __future__ import annotations

from typing import Any

from logged import BLUE, GREEN, GREY, HERE, INK, STYLE, VERMILION, percent, rows
from matplotlib import pyplot as plt

STRONG = ("2026-11-21", "strong-methods")
DAY_BEFORE = ("2026-11-20", "student-day-1")


def main() -> None:
    """Write the picture beside this file."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.3), layout="constrained")
        students = sorted(
            (row for row in rows(*STRONG, method="zoo_student", shot=5) if "Adam" not in row["variant"]),
            key=lambda row: row["megabytes_kept"],
        )
        axes.plot(
            [row["megabytes_kept"] for row in students],
            percent(students),
            color=BLUE,
            marker="o",
            markersize=4,
            linewidth=1,
            alpha=0.6,
        )
        default = next(row for row in students if row["variant"] == "conv4_pyramid")
        point(axes, default, "zoo_student", BLUE, "o", 10, (-4, 9), "right")
        place = students[0]["megabytes_kept"], 100.0 * students[0]["accuracy"]
        note = f"small dots: other networks\nas the student, from Conv4-32 {place[1]:.1f}"
        axes.annotate(note, place, (-10, -29), textcoords="offset points", color=BLUE, fontsize=9)
        plain, ridge = rows(*STRONG, method="zoo_embedding", shot=5)
        place = ridge["megabytes_kept"], 100.0 * ridge["accuracy"]
        label = f"\n(centred, ridge; hollow: {place[1]:.1f})"
        point(axes, plain, "zoo_embedding", VERMILION, "s", 6, (56, -42), "right", label)
        axes.plot(*place, color=VERMILION, marker="s", markersize=6, markerfacecolor="white")
        best = rows(*DAY_BEFORE, method="best_member", shot=5)[0]
        point(axes, best, "best_member", GREEN, "^", 8)
        point(axes, rows(*STRONG, method="free", shot=5)[0], "free, 16 minutes", INK, "D", 7)
        point(axes, rows(*STRONG, method="purer", shot=5)[0], "purer, 16 minutes", INK, "D", 7, (9, -6))
        point(axes, rows(*DAY_BEFORE, method="random_init", shot=5)[0], "random_init", GREY, "v", 8, (9, -5))
        point(axes, rows(*STRONG, method="average", shot=5)[0], "average", GREY, "v", 8)
        axes.axhline(20, color=GREY, linestyle=":", linewidth=1)
        axes.annotate("chance", (40, 20), (0, 3), textcoords="offset points", color=GREY, ha="right", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(0.09, 42)
        axes.set_ylim(15, 80)
        axes.minorticks_off()
        axes.set_xticks(
            [0.12, 3.6, 12],
            [
                "0.12 MB\n30,000 weights\none classifier",
                "3.6 MB\n0.9 million\n",
                "12 MB\n3 million\nall 100 classifiers",
            ],
        )
        axes.set_xlabel("what must be kept to predict (float32)")
        axes.set_ylabel("accuracy, %")
        axes.set_title("CIFAR-FS, unseen classes, 5-way 5-shot, from 100 classifiers")
        figure.savefig(HERE / "accuracy_against_size.svg", metadata={"Date": None})


def point(
    axes: Any,
    row: dict[str, Any],
    label: str,
    colour: str,
    marker: str,
    size: float,
    offset: tuple[float, float] = (9, -3),
    align: str = "left",
    more: str = "",
) -> None:
    """A method with its interval, and its name with `more` text at an offset in points."""
    place = row["megabytes_kept"], 100.0 * row["accuracy"]
    axes.errorbar(*place, yerr=100.0 * row["ci"], color=colour, marker=marker, markersize=size, capsize=2)
    text = f"{label} {place[1]:.1f}{more}"
    axes.annotate(text, place, offset, textcoords="offset points", color=colour, ha=align, fontweight="bold")


if __name__ == "__main__":
    main()
