"""One finished benchmark for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from dfml.benchmark.cell_results import BenchmarkResults, read_results
from dfml.benchmark.execution import execute
from dfml.benchmark.preparation import Plan
from dfml.benchmark.processes import run_in_this_process
from tests.benchmark.small import plan

FAILING = "tests.benchmark.failing_methods:Failing"


@dataclass(frozen=True)
class Finished:
    """A benchmark with two seeds and a method that fails; a test that changes its files restores them."""

    plan: Plan
    failures: dict[str, str]
    results: BenchmarkResults
    lines: tuple[str, ...]


CHANGES = {"seeds": [0, 1], "methods": {"failing": {"method": FAILING, "seeds": [0]}, "average": {"seeds": [0]}}}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    made = plan(tmp_path_factory.mktemp("benchmark") / "out", **CHANGES)
    lines: list[str] = []
    failures = execute(made, 1, run=run_in_this_process, say=lines.append)
    return Finished(made, failures, read_results(made, failures), tuple(lines))
