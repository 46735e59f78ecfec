"""Summaries of the measurements of `benchmarks/recovery.py`, and their printed form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FIVE, UNTRAINED, SCRATCH, CMI, FAST, EI = "FIVE", "FIVE, untrained", "from scratch", "CMI", "FastDFKD", "EI"
PRINTED_STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)


def first_at_most(curve: Sequence[float], level: float) -> int | None:
    """Return the first index of a curve at which it is at or below a level, or None."""
    return next((index for index, value in enumerate(curve) if value <= level), None)


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
    """Return the main ratios as medians over members.

    Args:
        rows: Measurements of each new member.
        meta_seconds: Duration of FIVE's meta-training.
        scratch_steps: Steps of the generator from scratch, after which it counts as not having reached FIVE.

    Returns:
        Ratios by name; `exact` is False where a median is only a lower bound, because a generator did not reach FIVE.
    """
    five = [row["engines"][f"{FIVE}, 5 steps"]["seconds"] for row in rows]
    fixed = [row["engines"][f"{SCRATCH}, {scratch_steps} steps"]["seconds"] for row in rows]
    result: dict[str, Any] = {
        "five_seconds": statistics.median(five),
        "fixed_ratio": statistics.median(other / own for other, own in zip(fixed, five, strict=True)),
        "fixed_runs_to_pay_off": runs_to_pay_off(meta_seconds, fixed, five),
    }
    for name in (SCRATCH, EI):
        equal = [row["equal_cross_entropy"][name] for row in rows]
        reached, seconds = [each["reached"] for each in equal], [each["seconds"] for each in equal]
        steps, exact = censored_median([each["steps"] for each in equal], reached)
        ratio, exact_ratio = censored_median([other / own for other, own in zip(seconds, five, strict=True)], reached)
        result[name] = {
            "steps": steps,
            "ratio": ratio,
            "exact": exact and exact_ratio,
            "reached": sum(reached),
            "seconds": statistics.median(seconds),
            "runs_to_pay_off": runs_to_pay_off(meta_seconds, seconds, five),
        }
    return result


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
    steps = [step for step in PRINTED_STEPS if step < len(result["curves"][FIVE])]
    print("\ncross-entropy after steps\n" + " " * 26 + "".join(f"{step:8d}" for step in steps))
    for name, curve in result["curves"].items():
        print(f"{name:26s}" + "".join(f"{curve[step]:8.3f}" for step in steps))
    print()
    for name, each in result["meta_training"].items():
        ends = " -> ".join(f"{value:.3f}" for value in each["cross_entropy"][-1]) if each["cross_entropy"] else "none"
        print(f"meta-training {name}: {each['updates']} updates, {each['seconds']:.0f} s; last CE over k steps {ends}")
    _show_headline(result["headline"], result["settings"]["scratch_steps"], len(result["new_members"]))


def _show_headline(found: Mapping[str, Any], scratch_steps: int, members: int) -> None:
    print(f"FIVE, k = 5: {found['five_seconds']:.3f} s per run")
    for name in (SCRATCH, EI):
        each = found[name]
        bound = "" if each["exact"] else "> "
        print(
            f"{name} to equal cross-entropy: {bound}{each['steps']:g} steps, {bound}{each['seconds']:.3f} s, "
            f"{bound}{each['ratio']:.2f} x FIVE ({each['reached']} of {members} reach it in {scratch_steps} steps)"
        )
    print(f"{scratch_steps} steps from scratch: {found['fixed_ratio']:.1f} x FIVE")
    runs, exact = found[SCRATCH]["runs_to_pay_off"], found[SCRATCH]["exact"]
    equal = _count(runs) if exact else "unknown" if runs is None else f"at most {_count(runs)}"
    fixed = _count(found["fixed_runs_to_pay_off"])
    print(f"runs until FIVE's meta-training pays off: {equal} at equal cross-entropy, {fixed} at {scratch_steps} steps")


def _count(runs: float | None) -> str:
    return "never" if runs is None else f"{math.ceil(runs)}"


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of curves of the same length."""
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]
