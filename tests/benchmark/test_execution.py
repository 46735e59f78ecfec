"""A benchmark does what is missing; a cell that fails costs no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dfml.benchmark.cell_process import TRAINED
from dfml.benchmark.cell_results import read_results
from dfml.benchmark.execution import available_cores, default_jobs, execute
from dfml.benchmark.processes import JobResult, run_in_this_process
from dfml.benchmark.summary import group_table
from tests.benchmark.conftest import Finished
from tests.benchmark.small import plan


def test_a_failing_cell_is_named_and_the_others_are_finished(finished: Finished) -> None:
    (key,) = finished.failures
    assert finished.plan.jobs[key].cell.row == "failing"
    assert finished.failures[key] == "the disk is full"
    assert all(job.is_finished for other, job in finished.plan.jobs.items() if other != key)
    assert finished.results.failures == {"failing on letters, seed 0": "the disk is full"}


def test_progress_has_one_line_per_cell_and_the_time_left(finished: Finished) -> None:
    cells = [line for line in finished.lines if "seed" in line]
    assert len(cells) == len(finished.plan.jobs) == 6
    assert cells[-1].startswith("6/6 cells")
    assert any("about" in line and "left" in line for line in cells[:-1])
    assert any("failing on letters, seed 0: failed: the disk is full" in line for line in cells)


def test_a_finished_benchmark_starts_no_job(finished: Finished) -> None:
    started: list[Any] = []

    def run(jobs: Sequence[Any], log_of: Callable[[Any], Path], count: int) -> Iterator[JobResult | None]:
        started.extend(jobs)
        yield from (JobResult(job, "still full", 0.0) for job in jobs)

    failures = execute(finished.plan, 1, run=run, say=lambda line: None)
    assert [job.cell.row for job in started] == ["failing"]  # what has failed is tried again
    assert list(failures.values()) == ["still full"]


def test_a_benchmark_that_lost_files_is_resumed_to_the_same_table(finished: Finished) -> None:
    jobs = [job for job in finished.plan.jobs.values() if job.cell.row == "purer"]
    (jobs[0].folder / TRAINED).unlink()  # killed before the costs of the training were written
    jobs[0].measurements[1][1].unlink()
    shutil.rmtree(jobs[1].folder)  # killed before it was started
    shutil.rmtree(jobs[0].zoo_paths[0] / "member-001")  # killed while the zoo was built
    failures = execute(finished.plan, 1, run=run_in_this_process, say=lambda line: None)
    assert failures == finished.failures
    before, after = (
        [[row[:3] for row in group_table(group).rows] for group in found.groups]
        for found in (finished.results, read_results(finished.plan, failures))
    )
    assert before == after


def test_a_method_that_is_added_later_keeps_what_is_finished(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.plan.options.out, out)
    more = plan(out, methods={"random_init": {}})
    done = [job.cell.row for job in more.jobs.values() if job.is_finished]
    assert done == ["purer", "zoo_embedding", "average"]


def test_cells_of_a_zoo_that_fails_are_named(tmp_path: Path) -> None:
    made = plan(tmp_path / "out")

    def run(jobs: Sequence[Any], log_of: Callable[[Any], Path], count: int) -> Iterator[JobResult | None]:
        yield from (JobResult(job, "out of memory", 0.0) for job in jobs)

    failures = execute(made, 1, run=run, say=lambda line: None)
    assert set(failures) == set(made.jobs)
    assert set(failures.values()) == {"the zoo letters was not built: out of memory"}


def test_one_cell_per_core_on_a_cpu_and_one_on_a_gpu() -> None:
    assert 1 <= default_jobs(torch.device("cpu")) <= available_cores()
    assert default_jobs(torch.device("cuda")) == 1
