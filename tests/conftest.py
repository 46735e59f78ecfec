"""Shapes are checked in every test, and tests that need the real data say so.

The import hook must be installed before `dfml` is first imported: it makes jaxtyping's annotations fail loudly here
while they cost nothing in production.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("dfml", "beartype.beartype")

# The same examples at every run, and no time limit: a slow machine is not a bug.
settings.register_profile("dfml", deadline=None, derandomize=True)
settings.load_profile("dfml")

# One thread per process, also in session fixtures: as many processes run as there are cores.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUIRED = os.environ.get("DFML_REQUIRE_SHARED") == "1"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Number of workers: one per core, but none for a single file, which is done before workers have started."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as xdist reads it
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and files.pop().endswith(".py"):
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and zoos beside the checkout."""
    if not SHARED.is_dir():
        if REQUIRED:
            pytest.fail(f"expected the real data at {SHARED}; DFML_REQUIRE_SHARED=1 forbids to skip")
        pytest.skip(f"no real data at {SHARED}")
    return SHARED
