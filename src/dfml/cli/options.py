"""Options that several verbs have, so that each looks the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dfml.data.splits import split_names

Protocol = Literal["strict", "paper"]
Recipe = Literal["paper", "strong"]
if TYPE_CHECKING:
    SplitName = str
else:  # as the registry and installed packages have them
    SplitName = Literal[split_names()]

_COMMON = "Common options"

SeedOption = Annotated[int, typer.Option("--seed", min=0, rich_help_panel=_COMMON, help="Of all random draws.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", rich_help_panel=_COMMON, help="auto, cpu, cuda, cuda:1, ...")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, metavar="N", rich_help_panel=_COMMON, help="CPU threads; torch decides by default."
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        rich_help_panel=_COMMON,
        help="Also write the results here as JSON; - is standard output.",
    ),
]
SplitsOption = Annotated[
    SplitName | None,
    typer.Option(
        "--splits",
        metavar="NAME",
        help="Divide a folder without train, val and test by the class split of a benchmark: "
        f"{', '.join(split_names())}.",
    ),
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--class-identity",
        metavar="names|distinct|FILE",
        help="Which classes of different members are the same: those of one name (default), none, or as a YAML file "
        "says.",
    ),
]
CalibrationOption = Annotated[
    Literal["icfil"] | None,
    typer.Option(
        "--calibration",
        help="Of adapted networks, by the images that they recall: icfil. For learners that adapt by gradient descent.",
    ),
]


def prepare_torch(threads: int | None) -> None:
    """Let torch compute with so many threads, and keep the memory that it frees."""
    import torch

    from dfml.training.device import keep_freed_memory

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
