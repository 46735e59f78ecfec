"""Measure the peak memory of PURER after several numbers of meta-iterations, to see whether it grows.

    uv run python benchmarks/purer_memory.py ZOO --shot 5 --iterations 300

Prints the peak resident memory after 1/10, 1/3 and all of the meta-iterations, with a curriculum that fires often.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import torch

from dfml.methods.purer import PURER
from dfml.training.device import keep_freed_memory
from dfml.zoo.zoo import Zoo


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    zoo = Zoo.open(arguments.zoo)
    run = PURER(shot=arguments.shot, iterations=arguments.iterations, warm_up=1, patience=1).start(
        zoo, torch.device("cpu")
    )
    marks = {max(1, arguments.iterations // part) for part in (10, 3, 1)}
    print(f"before the first meta-iteration: {peak():.0f} MiB")
    for iteration in range(1, arguments.iterations + 1):
        run.step(iteration)
        if iteration in marks:
            print(f"after {iteration} meta-iterations: {peak():.0f} MiB")


def peak() -> float:
    """Return the peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
