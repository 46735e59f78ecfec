"""Tables of a zoo's members. Imported when a subcommand runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from dfml.inversion.inverted import InvertedMember
from dfml.pretraining import BuiltMember
from dfml.zoo.inspection import ZooReport

_SHOWN = 12  # names in a cell of a table


def built_table(members: Sequence[BuiltMember]) -> Table:
    """One row per member that was built or found."""
    table = _table("member", "architecture", "input", "held-out %", "seconds", "classes")
    for member in members:
        seconds = "found" if member.seconds is None else f"{member.seconds:.1f}"
        accuracy = f"{100 * member.held_out_accuracy:.1f}"
        size, classes = f"{member.size} x {member.size}", f"{len(member.labels)}: {shorten(member.labels)}"
        table.add_row(member.name, member.architecture, size, accuracy, seconds, classes)
    return table


def inspection_table(report: ZooReport) -> Table:
    """One row per member or model file.

    Unusable ones are marked BAD, files that can become members `add`, and members with warnings by an exclamation mark.
    """
    table = _table(
        "", "member", "format", "architecture", "parameters", "input", "batch norms", "held-out %", "sha256", "classes"
    )
    for member in report.members:
        mark = "add" if member.can_be_added else "BAD" if member.problem else "!" if member.warnings else "ok"
        table.add_row(
            mark,
            member.name,
            member.format or "?",
            member.architecture or "?",
            "?" if member.parameters is None else f"{member.parameters:,}",
            f"{member.size} x {member.size}" if member.size else "?",
            "?" if member.batch_norms is None else str(member.batch_norms),
            "" if member.held_out_accuracy is None else f"{100 * member.held_out_accuracy:.1f}",
            (member.sha256 or "?")[:12],
            f"{len(member.labels)}: {shorten(member.labels)}" if member.labels else "?",
            style="bold red" if mark == "BAD" else "yellow" if mark in ("add", "!") else None,
        )
    return table


def fidelity_table(inverted: Sequence[InvertedMember]) -> Table:
    """One row per inverted member; members with a warning are marked."""
    table = _table("member", "images", "agreement %", "other members %", "chance %", "batch-norm distance", "of noise")
    for each in inverted:
        fidelity = each.fidelity
        table.add_row(
            each.name,
            str(each.count),
            f"{100 * fidelity.agreement:.1f}",
            "-" if fidelity.other_agreement is None else f"{100 * fidelity.other_agreement:.1f}",
            f"{100 * fidelity.chance:.1f}",
            f"{fidelity.batch_norm_distance:.4g}",
            f"{fidelity.noise_batch_norm_distance:.4g}",
            style="yellow" if fidelity.warning else None,
        )
    return table


def shorten(names: Sequence[str]) -> str:
    """The first names, and the number of others."""
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else "")


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        left = heading in ("", "member", "format", "architecture", "sha256", "classes")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    return table
