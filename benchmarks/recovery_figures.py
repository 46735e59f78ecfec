"""The figures of `benchmarks/recovery.py`, out of what it measured, and how they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FIVE, UNTRAINED, SCRATCH, CMI, FAST, EI = "FIVE", "FIVE, untrained", "from scratch", "CMI", "FastDFKD", "EI"
SHOWN = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)  # steps of the curve that go on the screen


def first_at_most(curve: Sequence[float], level: float) -> int | None:
    """The first place of a curve that is at or below a level; None: there is none."""
    return next((place for place, value in enumerate(curve) if value <= level), None)


def censored_median(values: Sequence[float], known: Sequence[bool]) -> tuple[float, bool]:
    """The median of values of which some are only known to be at least so large.

    Returns:
        The median, or a lower bound of it; and whether it is the median.
    """
    bound = statistics.median(values)
    largest = statistics.median([value if sure else math.inf for value, sure in zip(values, known, strict=True)])
    return bound, bound == largest


def medians(figures: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of every figure over members; of those that have it."""
    numbers = [name for name in figures[0] if name != "warning"]
    found = {name: [each[name] for each in figures if each[name] is not None] for name in numbers}
    return {name: statistics.median(values) if values else None for name, values in found.items()}


def headline(rows: Sequence[Mapping[str, Any]], meta_seconds: float, scratch_steps: int) -> dict[str, Any]:
    """The ratios, medians over members; `exact` is False where a median is a lower bound, for want of steps."""
    five = [row["engines"][f"{FIVE}, 5 steps"]["seconds"] for row in rows]
    fixed = [row["engines"][f"{SCRATCH}, {scratch_steps} steps"]["seconds"] for row in rows]
    result: dict[str, Any] = {
        "five_seconds": statistics.median(five),
        "fixed_ratio": statistics.median(theirs / ours for theirs, ours in zip(fixed, five, strict=True)),
        "fixed_tasks_to_pay": tasks_to_pay(meta_seconds, fixed, five),
    }
    for name in (SCRATCH, EI):
        equal = [row["equal_cross_entropy"][name] for row in rows]
        reached, seconds = [each["reached"] for each in equal], [each["seconds"] for each in equal]
        steps, exact = censored_median([each["steps"] for each in equal], reached)
        ratio, exact_ratio = censored_median([s / ours for s, ours in zip(seconds, five, strict=True)], reached)
        result[name] = {
            "steps": steps,
            "ratio": ratio,
            "exact": exact and exact_ratio,
            "reached": sum(reached),
            "seconds": statistics.median(seconds),
            "tasks_to_pay": tasks_to_pay(meta_seconds, seconds, five),
        }
    return result


def tasks_to_pay(meta_seconds: float, theirs: Sequence[float], five: Sequence[float]) -> float | None:
    """Recovered tasks after which meta-training has paid for itself; None: never."""
    saved = statistics.median(their - ours for their, ours in zip(theirs, five, strict=True))
    return meta_seconds / saved if saved > 0.0 else None


def show(result: Mapping[str, Any]) -> None:
    """Tables on the screen."""
    print(
        f"\nmedian of {len(result['newcomers'])} newcomers, {result['device']}, {result['threads']} threads, no student"
    )
    print(f"{'':26s}{'s/task':>10s}{'CE':>9s}{'agree':>8s}{'BN dist':>10s}{'others agree':>14s}")
    for title, row in result["medians"].items():
        others = "-" if row["other_agreement"] is None else f"{row['other_agreement']:.3f}"
        figures = f"{row['seconds']:10.3f}{row['cross_entropy']:9.4f}{row['agreement']:8.3f}"
        print(f"{title:26s}{figures}{row['batch_norm_distance']:10.2f}{others:>14s}")
    yardstick = next(iter(result["medians"].values()))
    print(f"{'(noise, guessing)':53s}{yardstick['noise_batch_norm_distance']:10.2f}{yardstick['chance']:14.3f}")
    steps = [step for step in SHOWN if step < len(result["curves"][FIVE])]
    print("\ncross-entropy after steps\n" + " " * 26 + "".join(f"{step:8d}" for step in steps))
    for name, curve in result["curves"].items():
        print(f"{name:26s}" + "".join(f"{curve[step]:8.3f}" for step in steps))
    print()
    for name, each in result["meta_training"].items():
        ends = " -> ".join(f"{value:.3f}" for value in each["cross_entropy"][-1]) if each["cross_entropy"] else "none"
        print(f"meta-training {name}: {each['updates']} updates, {each['seconds']:.0f} s; last CE over k steps {ends}")
    _show_headline(result["headline"], result["settings"]["scratch_steps"], len(result["newcomers"]))


def _show_headline(found: Mapping[str, Any], scratch_steps: int, members: int) -> None:
    print(f"FIVE, k = 5: {found['five_seconds']:.3f} s a task")
    for name in (SCRATCH, EI):
        each = found[name]
        more = "" if each["exact"] else "> "
        print(
            f"{name} to equal cross-entropy: {more}{each['steps']:g} steps, {more}{each['seconds']:.3f} s, "
            f"{more}{each['ratio']:.2f} x FIVE ({each['reached']} of {members} get there in {scratch_steps} steps)"
        )
    print(f"{scratch_steps} steps from scratch: {found['fixed_ratio']:.1f} x FIVE")
    tasks, exact = found[SCRATCH]["tasks_to_pay"], found[SCRATCH]["exact"]
    equal = _count(tasks) if exact else "unknown" if tasks is None else f"at most {_count(tasks)}"
    fixed = _count(found["fixed_tasks_to_pay"])
    print(f"tasks that pay for FIVE's meta-training: {equal} at equal cross-entropy, {fixed} at {scratch_steps} steps")


def _count(tasks: float | None) -> str:
    return "never" if tasks is None else f"{math.ceil(tasks)}"


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of curves of one length."""
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]
