"""One small quickstart for all tests of this folder."""

from __future__ import annotations

import pytest
import torch

from dfml.demo.page import write_quickstart
from dfml.demo.quickstart_folder import QuickstartFolder
from dfml.demo.run import run_quickstart
from tests.demo.quickstart_small import Finished, small


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("quickstart")
    folder = QuickstartFolder(out)
    stages: list[str] = []
    result = run_quickstart(
        folder, seed=3, settings=small(), report=lambda stage, seconds, outcome: stages.append(stage)
    )
    write_quickstart(result, folder, "dfml quickstart --out <b>here</b>")
    return result, out, stages
