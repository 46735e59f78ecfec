"""Draw how accuracy grows with members, recovered images and minutes of training: `growth.svg`.

uv run python docs/results/figures/growth.py

CIFAR-FS, unseen classes, 5-way 5-shot, protocol `strict`, seed 0. The first two panels are of the `strong` zoo, the
third is of the `paper` zoo, because PURER and FREE have learning curves there.
"""

from __future__ import annotations

from typing import Any

from logged import BLUE, GREEN, HERE, PURPLE, STYLE, VERMILION, percent, rows
from matplotlib import pyplot as plt

DAY = "2026-11-21"


def main() -> None:
    """Write the picture beside this file."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(11.0, 3.9), layout="constrained")
        with_members(panels[0])
        with_images(panels[1])
        with_minutes(panels[2])
        panels[0].set_ylabel("accuracy, 5-way 5-shot, %")
        for panel in panels[:2]:
            panel.set_ylim(56, 75)
            panel.set_yticks([60, 65, 70, 75])
        panels[2].set_ylim(30, 75)
        panels[2].set_yticks(range(30, 80, 10))
        figure.savefig(HERE / "growth.svg", metadata={"Date": None})


def with_members(axes: Any) -> None:
    """`zoo_student` against all members together, for 5 to 100 members."""
    student = rows(DAY, "growth-members", method="zoo_student", shot=5)
    members = [row["members"] for row in student]
    whole = rows(DAY, "growth-members", method="zoo_embedding", shot=5)
    axes.errorbar(members, percent(student), percent(student, "ci"), color=BLUE, marker="o", capsize=2)
    axes.plot(members, percent(whole), color=VERMILION, linestyle="--")
    for row in whole:
        fill = "white" if row.get("second_hand") else VERMILION
        axes.plot(row["members"], 100.0 * row["accuracy"], color=VERMILION, marker="s", markerfacecolor=fill)
    axes.annotate("zoo_student", (14, 67.5), color=BLUE, ha="right", fontweight="bold")
    axes.annotate("zoo_embedding\n(hollow: second hand)", (21, 63.5), color=VERMILION, ha="left", fontweight="bold")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(members, [str(count) for count in members])
    axes.set_xlabel("members")
    axes.set_title("Members (strong zoo)")


def with_images(axes: Any) -> None:
    """Snapshots of one run of `zoo_student`."""
    found = rows(DAY, "growth-images", shot=5)
    images = [row["recovered_images"] for row in found]
    axes.plot(images, percent(found), color=BLUE, marker="o")
    axes.annotate("zoo_student", (6500, 68.3), color=BLUE, fontweight="bold")
    ticks = [f"{row['recovered_images']:,}\n{row['minutes']:.0f} min" for row in found]
    axes.set_xticks(images, ticks, fontsize=8.5)
    axes.set_xlabel("recovered images, and minutes of training")
    axes.set_title("Images (strong zoo)")


def with_minutes(axes: Any) -> None:
    """FREE and PURER while they train, and `zoo_student` when it is done."""
    for method, colour, marker, place in (("free", GREEN, "D", (27, 53.2)), ("purer", PURPLE, "^", (27, 40.0))):
        found = rows("2026-11-20", "equal-time-5-shot", method=method)
        minutes = [row["minutes"] for row in found]
        axes.errorbar(minutes, percent(found), percent(found, "ci"), color=colour, marker=marker, capsize=2)
        axes.annotate(method, place, color=colour, fontweight="bold", ha="center")
    done = rows(DAY, "paper-methods", method="zoo_student", variant="conv4_pyramid", shot=5)[0]
    minutes = float(done["training"].split()[0])
    axes.errorbar(minutes, 100.0 * done["accuracy"], 100.0 * done["ci"], color=BLUE, marker="o", capsize=2)
    axes.annotate("zoo_student, done", (minutes + 1.2, 69.0), color=BLUE, fontweight="bold")
    axes.set_xlim(0, 43)
    axes.set_xlabel("minutes of training")
    axes.set_title("Minutes (paper zoo)")


if __name__ == "__main__":
    main()
