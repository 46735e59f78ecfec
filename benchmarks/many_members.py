"""Measure time and peak memory of dfml's commands on zoos of 10, 100 and 1,000 members.

    uv run python benchmarks/many_members.py ZOO --members 10,100,1000 --max-resident 16 --json result.json

The zoos are made of the members of ZOO, in turn, each with slightly other weights, so that no two members are the same.
Every command is a process of its own with one thread. Seconds are those of the processor, imports included: the time by
the clock depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dfml.evaluation.protocol import versions
from dfml.seeds import generator

_CHANGE = 0.01  # of every weight, relative
_TRAIN = (
    *("--iterations", "2", "--set", "zoo_student.images_per_class=2", "--set", "zoo_student.student_steps=2"),
    *("--set", "zoo_student.batch=64", "--set", "zoo_student.memory=2000"),
    *("--set", "zoo_student.inversion.ei.steps=2", "--set", "zoo_student.inversion.ei.search_steps=0"),
)
_INVERT = ("--members", "10", "--per-class", "1", "--steps", "2")


@dataclass(frozen=True)
class Measured:
    """One command on one zoo.

    Attributes:
        members: Number of members of the zoo.
        command: Name of the command.
        seconds: Processor time of the process.
        peak: Largest memory of the process, in MiB.
    """

    members: int
    command: str
    seconds: float
    peak: float


def copy_members(zoo: Path, out: Path, count: int) -> Path:
    """Make a zoo of copies of a zoo's members, in turn, with slightly other weights.

    Args:
        zoo: A zoo of members in timm's format.
        out: The new folder.
        count: Number of members.
    """
    originals = sorted(path.parent for path in zoo.glob("*/model.safetensors"))
    for index in range(count):
        original, copy = originals[index % len(originals)], out / f"member-{index:05d}"
        copy.mkdir(parents=True)
        shutil.copyfile(original / "config.json", copy / "config.json")
        draws = generator(0, "copies", index)
        weights = {
            name: value * (1 + _CHANGE * torch.rand(value.shape, generator=draws)) if value.ndim else value
            for name, value in load_file(original / "model.safetensors").items()
        }
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return out


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Run a command of dfml.

    Args:
        arguments: Its arguments.

    Returns:
        Processor time in seconds, and largest memory in MiB.

    Raises:
        RuntimeError: If the command fails.
    """
    start = "from dfml.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", start, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"dfml {' '.join(arguments)} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def commands(zoo: Path, out: Path, max_resident: int) -> Mapping[str, Sequence[str]]:
    """Name of a command -> its arguments."""
    common = ("--max-resident", str(max_resident))
    return {
        "zoo inspect": ["zoo", "inspect", str(zoo), *common],
        "train": ["train", str(zoo), "--out", str(out / "learner"), *_TRAIN, "--threads", "1", *common],
        "invert": ["invert", str(zoo), "--out", str(out / "images"), *_INVERT, "--threads", "1", *common],
    }


def main() -> None:
    """Make the zoos, run the commands, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, help="a zoo of members in timm's format")
    parser.add_argument("--members", default="10,100,1000", help="numbers of members, separated by commas")
    parser.add_argument("--max-resident", type=int, default=16, help="members in memory at once")
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, given.members.split(",")):
            place = Path(folder) / str(count)
            zoo = copy_members(given.zoo, place / "zoo", count)
            for name, arguments in commands(zoo, place, given.max_resident).items():
                rows.append(Measured(count, name, *measure(arguments)))
                print(f"{name}, {count} members: {rows[-1].seconds:.1f} s, {rows[-1].peak:.0f} MiB", flush=True)
    if given.json:
        result = {"measured": [asdict(row) for row in rows], "max_resident": given.max_resident, "versions": versions()}
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
