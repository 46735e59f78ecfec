"""Time of one update of Muon: in dfml, and in PyTorch, which multiplies in bfloat16 whatever the processor can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from dfml.muon import Muon

SHAPES = (64, 27), (160, 1440), (512, 4608)
REPEATS = 5


def milliseconds(make: Callable[[nn.Parameter], torch.optim.Optimizer], shape: tuple[int, int]) -> float:
    """Median time of an update of one matrix."""
    weight = nn.Parameter(torch.randn(shape))
    optimiser = make(weight)
    found = []
    for _ in range(REPEATS):
        weight.grad = torch.randn(shape)
        start = time.perf_counter()
        optimiser.step()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{torch.backends.cpu.get_cpu_capability()}, one thread, median of {REPEATS}")
    for shape in SHAPES:
        theirs = milliseconds(lambda weight: torch.optim.Muon([weight], lr=0.01), shape)
        ours = milliseconds(lambda weight: Muon([weight], lr=0.01), shape)
        print(f"{shape[0]} x {shape[1]}: PyTorch {theirs:.1f} ms, dfml {ours:.1f} ms, ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
