"""Summaries of the measurements of `benchmarks/recovery.py`, and their printed form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FIVE, UNTRAINED, SCRATCH, CMI, FAST, EI = "FIVE", "FIVE, untrained", "from scratch", "CMI", "FastDFKD", "EI"
TRACED_STEPS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 400)
LEVELS = ("50%", "60%")


def first_at_least(curve: Mapping[int, float], level: float) -> int | None:
    """Return the least number of steps at which a curve is at or above a level, or None."""
    return next((steps for steps, value in sorted(curve.items()) if value >= level), None)


def censored_median(values: Sequence[float], known: Sequence[bool]) -> tuple[float, bool]:
    """Return the median of values of which some are only lower bounds.

    Args:
        values: Values or lower bounds of them.
        known: Whether each value is exact.

    Returns:
        The median or a lower bound of it, and whether it is exact.
    """
    bound = statistics.median(values)
    largest = statistics.median([value if exact else math.inf for value, exact in zip(values, known, strict=True)])
    return bound, bound == largest


def medians(measurements: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the median of every measurement over the members that have it."""
    numbers = [name for name in measurements[0] if name != "warning"]
    values_by_name = {name: [each[name] for each in measurements if each[name] is not None] for name in numbers}
    return {name: statistics.median(values) if values else None for name, values in values_by_name.items()}


def headline(rows: Sequence[Mapping[str, Any]], meta_seconds: float, scratch_steps: int) -> dict[str, Any]:
    """Return the main figures: time to equal agreement of other members, and time of fixed numbers of steps.

    Args:
        rows: Measurements of each new member.
        meta_seconds: Duration of FIVE's meta-training.
        scratch_steps: Steps of the generator from scratch in the comparison of fixed numbers of steps.

    Returns:
        Figures by name. In `equal_agreement`, for every level and engine: the members that reach it, the median of
        steps and seconds over all members (lower bounds unless `exact`, because some do not reach it), and how many
        times as long as FIVE's this median is. That ratio is a lower bound if only FIVE's median is exact, and None if
        FIVE's is not.
    """
    five = [row["engines"][f"{FIVE}, 5 steps"]["seconds"] for row in rows]
    fixed = [row["engines"][f"{SCRATCH}, {scratch_steps} steps"]["seconds"] for row in rows]
    levels = {}
    for level in rows[0]["equal_agreement"]:
        found = {name: _until(rows, level, name) for name in rows[0]["equal_agreement"][level]}
        for each in found.values():
            each["ratio"] = each["seconds"] / found[FIVE]["seconds"] if found[FIVE]["exact"] else None
        saved = found[SCRATCH]["seconds"] - found[FIVE]["seconds"]
        levels[level] = {**found, "runs_to_pay_off": meta_seconds / saved if saved > 0.0 else None}
    return {
        "five_seconds": statistics.median(five),
        "fixed_ratio": statistics.median(other / own for other, own in zip(fixed, five, strict=True)),
        "fixed_runs_to_pay_off": runs_to_pay_off(meta_seconds, fixed, five),
        "equal_agreement": levels,
    }


def _until(rows: Sequence[Mapping[str, Any]], level: str, name: str) -> dict[str, Any]:
    measured = [row["equal_agreement"][level][name] for row in rows]
    reached = [each["reached"] for each in measured]
    steps, exact_steps = censored_median([each["steps"] for each in measured], reached)
    seconds, exact_seconds = censored_median([each["seconds"] for each in measured], reached)
    return {"reached": sum(reached), "steps": steps, "seconds": seconds, "exact": exact_steps and exact_seconds}


def runs_to_pay_off(meta_seconds: float, others: Sequence[float], five: Sequence[float]) -> float | None:
    """Return the number of inversion runs after which meta-training has saved its own duration; None: never."""
    saved = statistics.median(other - own for other, own in zip(others, five, strict=True))
    return meta_seconds / saved if saved > 0.0 else None


def show(result: Mapping[str, Any]) -> None:
    """Print tables."""
    where = f"{result['device']}, {result['threads']} threads"
    print(f"\nmedian of {len(result['new_members'])} new members, {where}, no student")
    print(f"{'':26s}{'s/run':>10s}{'CE':>9s}{'agree':>8s}{'BN dist':>10s}{'others agree':>14s}")
    for title, row in result["medians"].items():
        others = "-" if row["other_agreement"] is None else f"{row['other_agreement']:.3f}"
        columns = f"{row['seconds']:10.3f}{row['cross_entropy']:9.4f}{row['agreement']:8.3f}"
        print(f"{title:26s}{columns}{row['batch_norm_distance']:10.2f}{others:>14s}")
    noise = next(iter(result["medians"].values()))
    print(f"{'(noise, chance)':53s}{noise['noise_batch_norm_distance']:10.2f}{noise['chance']:14.3f}")
    for title, curves in (("cross-entropy", result["cross_entropy"]), ("agreement of other members", result["others"])):
        steps = sorted(next(iter(curves.values())))
        print(f"\n{title} after steps\n" + " " * 26 + "".join(f"{step:7d}" for step in steps))
        for name, curve in curves.items():
            print(f"{name:26s}" + "".join(f"{curve[step]:7.3f}" for step in steps))
    print()
    for name, each in result["meta_training"].items():
        ends = " -> ".join(f"{value:.3f}" for value in each["cross_entropy"][-1]) if each["cross_entropy"] else "none"
        print(f"meta-training {name}: {each['updates']} updates, {each['seconds']:.0f} s; last CE over k steps {ends}")
    _show_headline(result["headline"], result["settings"]["scratch_steps"], len(result["new_members"]))


def _show_headline(found: Mapping[str, Any], scratch_steps: int, members: int) -> None:
    for level, engines in found["equal_agreement"].items():
        print(f"until other members classify {level} of the images as intended:")
        for name in (each for each in engines if each != "runs_to_pay_off"):
            each, bound = engines[name], "" if engines[name]["exact"] else "> "
            ratio = "" if each["ratio"] is None else f", {bound}{each['ratio']:.2f} x FIVE"
            print(
                f"  {name:20s}{bound}{each['steps']:g} steps, {bound}{each['seconds']:.3f} s{ratio} "
                f"({each['reached']} of {members} members)"
            )
        print(f"  runs until FIVE's meta-training pays off: {_count(engines['runs_to_pay_off'])}")
    print(f"FIVE, k = 5: {found['five_seconds']:.3f} s per run")
    print(f"{scratch_steps} steps from scratch: {found['fixed_ratio']:.1f} x FIVE, k = 5, whatever either recovers;")
    print(f"  runs until FIVE's meta-training pays off: {_count(found['fixed_runs_to_pay_off'])}")


def _count(runs: float | None) -> str:
    return "never" if runs is None else f"{math.ceil(runs)}"


def mean_curve(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean of curves over the same steps."""
    return {steps: statistics.fmean(curve[steps] for curve in curves) for steps in curves[0]}
