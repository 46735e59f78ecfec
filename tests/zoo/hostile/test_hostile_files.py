"""Hostile files of all formats: nothing of theirs runs or hangs, one line says what is wrong, the others are read.

Each case is examined in another process, as `dfml zoo inspect`, `zoo add` and `Zoo.open` do it, and the process is
ended if there is no answer: a case that hangs fails, and hangs nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories import member, write
from tests.zoo.hostile import (
    configurations,
    manifests,
    onnx_files,
    pickles,
    special_files,
    tensor_files,
    transformers_folders,
)
from tests.zoo.hostile.cases import CANARY, Case

DEADLINE = 600  # seconds for one case, imports of the process included, on a machine that does much else
LONGEST = 2000  # characters of a message about a member
MOST_MEMBERS = 50  # of which one message tells

GROUPS = (configurations, manifests, onnx_files, pickles, special_files, tensor_files, transformers_folders)
CASES = [
    pytest.param(case, id=f"{group.__name__.rpartition('.')[2]}-{case.name}", marks=[pytest.mark.slow] * case.slow)
    for group in GROUPS
    for case in group.CASES.cases
]


class Examiner:
    """The process that examines; it is started for the first case, and again after one that it did not survive."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, zoo: Path) -> dict[str, Any] | None:
        """What dfml says of a zoo; None if the process ended, or did not answer in time."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zoo.hostile.examine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(DEADLINE, self._process.kill)
        timer.start()
        self._process.stdin.write(f"{zoo}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self.close()
            return None
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


@pytest.fixture(scope="session")
def examiner() -> Iterator[Examiner]:
    started = Examiner()
    yield started
    started.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs and devices of a Unix")
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_runs_nothing_and_is_refused_by_one_line(case: Case, tmp_path: Path, examiner: Examiner) -> None:
    if case.needs and importlib.util.find_spec(case.needs) is None:
        pytest.skip(f"needs {case.needs}")
    zoo = tmp_path / "zoo"
    write(zoo / "good", member())
    case.write(zoo)
    found = examiner.ask(zoo)
    assert found is not None, "it hangs, or ends the process"
    assert not (tmp_path / CANARY).exists()
    assert not (zoo / CANARY).exists()
    said = [found["failure"], found["opened"], *found["added"].values(), *found["rows"].values()]
    said = [text for text in [*said, *(text for each in found["warnings"].values() for text in each)] if text]
    assert not [text for text in said if text.startswith("CRASH")]
    assert not [text for text in said if "\n" in text or (len(text) > LONGEST and text != found["opened"])]
    assert len(found["opened"] or "") <= MOST_MEMBERS * LONGEST
    if case.whole_zoo:
        assert found["failure"]
        assert re.search(case.says, found["failure"])
        assert "zoo.yaml" in found["failure"]
        return
    assert found["failure"] is None
    assert found["rows"]["good"] is None
    own = {name: problem for name, problem in found["rows"].items() if name != "good"}
    assert own
    if not case.says:
        assert not any(own.values())
        return
    assert any(re.search(case.says, text) for text in said), said
    assert any(
        "bad" in name for name, problem in own.items() if problem or found["added"].get(name) or found["warnings"][name]
    )


def test_there_are_enough_cases_of_every_format() -> None:
    assert sum(len(group.CASES.cases) for group in GROUPS) >= 60
    assert all(len(group.CASES.cases) >= 10 for group in GROUPS)
