"""Options and choices that several subcommands share. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dfml.data.splits import split_names
from dfml.errors import UsageError

METHOD_NAMES = (
    *("zoo_student", "purer", "free", "bidf_mkd", "tgr", "random_init", "random_embedding"),
    *("average", "ot_fusion", "dro", "best_member", "zoo_embedding", "frozen_backbone"),
)
"""dfml's own methods, the default first. Kept beside `dfml.methods.METHODS`, whose import takes seconds."""

DEFAULT_METHOD = METHOD_NAMES[0]

MAX_RESIDENT = 1024
"""Default of `--max-resident`. Kept beside `dfml.zoo.zoo.MAX_RESIDENT`, whose import takes seconds."""

Protocol = Literal["strict", "paper"]
Recipe = Literal["paper", "strong"]
CalibrationName = Literal["icfil", "none"]
if TYPE_CHECKING:
    SplitName = str
else:  # dfml's own class splits and those of installed packages
    SplitName = Literal[split_names()]

COMMON = "Common options"
"""Heading in the help of the options that nearly all subcommands have."""

SeedOption = Annotated[
    int, typer.Option("--seed", min=0, metavar="N", rich_help_panel=COMMON, help="Seed of all random numbers.")
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="NAME", rich_help_panel=COMMON, help="Device: auto, cpu, cuda, cuda:1, mps, ..."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        rich_help_panel=COMMON,
        help="Number of CPU threads. Default: PyTorch's choice.",
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        rich_help_panel=COMMON,
        help="Also write the results to FILE as JSON; - is standard output.",
    ),
]
NetworksOption = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NAME=FILE.py:CLASS",
        help="Python file and class of a member's network, which the zoo's manifest names too. The file is run. "
        "Repeatable.",
    ),
]
MaxResidentOption = Annotated[
    int,
    typer.Option(
        "--max-resident",
        min=1,
        metavar="N",
        rich_help_panel=COMMON,
        help="Largest number of members in memory at once; others are read again when they are needed. Results do not "
        "depend on it.",
    ),
]
SplitsOption = Annotated[
    SplitName | None,
    typer.Option(
        "--splits",
        metavar="NAME",
        help="Divide data without train, val and test folders by the class split of a benchmark: "
        f"{', '.join(split_names())}.",
    ),
]
IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--class-identity",
        metavar="RULE",
        help="Which outputs of different members are the same class. names (default): those with equal labels; "
        "distinct: none; behaviour: those whose images members recognise in each other, which recovers images from all "
        "members and takes minutes; or a YAML file: member -> label -> class.",
    ),
]
OnBadMember = Literal["fail", "skip"]
OnBadMemberOption = Annotated[
    OnBadMember,
    typer.Option(
        "--on-bad-member",
        help="What to do about members that cannot be used. fail: end, with all of them listed; skip: leave them out, "
        "and list them.",
    ),
]
CalibrationOption = Annotated[
    CalibrationName | None,
    typer.Option(
        "--calibration",
        metavar="NAME",
        help="Calibration of adapted classifiers: icfil, only for learners that adapt by gradient descent or "
        "prototypes (maml, anil, protonet); or none. Default: the one that was trained with the learner, if any.",
    ),
]


def prepare_torch(threads: int | None) -> None:
    """Configure torch for this process: number of threads, and memory that is freed is kept for reuse.

    Args:
        threads: Number of CPU threads, at least 1; None leaves torch's choice.
    """
    import torch

    from dfml.training.device import keep_freed_memory

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)


def read_networks(values: list[str] | None) -> dict[str, str]:
    """Name of a member -> `FILE.py:CLASS`, from the values of `--network`.

    Raises:
        UsageError: If a value has no name, or a name has two.
    """
    found: dict[str, str] = {}
    for value in values or []:
        name, separator, network = value.partition("=")
        if not (name and separator and network):
            raise UsageError(f"--network {value}: expected NAME=FILE.py:CLASS, with the member's name in zoo.yaml")
        if name in found:
            raise UsageError(f"--network names {name} twice; drop one of them")
        found[name] = network
    return found
