"""The metrics of a run as TensorBoard reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dfml.errors import UsageError
from dfml.methods.purer import PURER
from dfml.training.run_folder import RunFolder
from dfml.training.tensorboard import TensorBoardLog
from tests.factories import zoo


def read(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: {each.step: each.value for each in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_every_metric_of_every_meta_iteration_is_a_scalar(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "run" / "tensorboard")
    PURER(way=3, query=2, iterations=3, episodes=1).fit(zoo(), out=tmp_path / "run", device="cpu", on_iteration=log)
    log.close()
    rows = RunFolder(tmp_path / "run").read_metrics()
    found = read(tmp_path / "run" / "tensorboard")
    assert found.keys() == {name for row in rows for name in row} - {"iteration", "messages"}
    for name in ("outer_loss", "seconds"):
        assert found[name] == pytest.approx({row["iteration"]: row[name] for row in rows}, rel=1e-5)


def test_what_was_written_after_the_checkpoint_of_a_resumed_run_is_hidden(tmp_path: Path) -> None:
    for done, value in ((0, 1.0), (2, 2.0)):
        log = TensorBoardLog(tmp_path, done)
        for iteration in range(done + 1, 5):
            log(iteration, {"loss": value})
        log.close()
    assert read(tmp_path)["loss"] == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}


def test_nothing_is_written_before_the_first_meta_iteration(tmp_path: Path) -> None:
    """The folder of a new run must be empty."""
    TensorBoardLog(tmp_path / "run" / "tensorboard").close()
    assert not (tmp_path / "run").exists()


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'dfml\[tensorboard\]'"):
        TensorBoardLog(tmp_path)
