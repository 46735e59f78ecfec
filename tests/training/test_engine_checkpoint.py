"""Metrics, images and meta-trained engine of a method from outside of the package are used like dfml's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from dfml.errors import RunError, UsageError
from dfml.inversion.registry import InversionConfig, LearnedEngine
from dfml.learners import LearnerConfig, create_learner
from dfml.learners.base import MetaLearner
from dfml.methods.base import Method
from dfml.training.checkpoint import State, save_checkpoint
from dfml.training.engine_checkpoint import add_learned_engine, read_engine
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.progress import SilentProgress
from dfml.zoo import Zoo
from tests.factories import PREPROCESSING, zoo

CPU = torch.device("cpu")
ENGINE = InversionConfig(engine="fast_dfkd")


class OutsideConfig(TrainingConfig):
    iterations: int = 4
    checkpoint_every: int = 2
    engine: bool = True


class Outside(Method):
    name: ClassVar[str] = "outside"
    config_type: ClassVar[type[TrainingConfig]] = OutsideConfig
    config: OutsideConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        return OutsideRun(self.config)


class OutsideRun(TrainingRun):
    """Its engine's only tensor is the number of the last meta-iteration."""

    def __init__(self, config: OutsideConfig) -> None:
        self.config, self.iterations = config, config.iterations
        self.engine = {"weights": torch.zeros(3), "statistics of a member": torch.ones(2)}

    def step(self, iteration: int) -> Mapping[str, float]:
        self.engine["weights"] = torch.full((3,), float(iteration))
        return {"energy": 1.0 / iteration, "hidden_loss": 2.0}

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        return {"energy": MetricDescription("energy", headline=True), "hidden_loss": MetricDescription("hidden loss")}

    def images(self, class_index: int, count: int) -> Tensor:
        return torch.full((count, 3, 2, 2), class_index / 10)

    def learned_engine(self) -> LearnedEngine | None:
        learned = {"weights": self.engine["weights"]}
        return LearnedEngine(ENGINE, PREPROCESSING, learned) if self.config.engine else None

    def state_dict(self) -> State:
        return State({f"engine.{name}": value for name, value in self.engine.items()}, {"note": "its own value"})

    def load_state_dict(self, state: State) -> None:
        assert state.values["note"] == "its own value"
        self.engine["weights"] = state.tensors["engine.weights"]

    def learner(self) -> MetaLearner:
        return create_learner(LearnerConfig(), PREPROCESSING, way=3)


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        self.metrics.append(dict(metrics))


def trained(folder: Path, **settings: Any) -> Outside:
    method = Outside(**settings)
    method.fit(zoo(), out=folder, device="cpu")
    return method


def test_the_run_stays_available_with_its_hooks_and_its_headline_metrics_are_shown(tmp_path: Path) -> None:
    method, recorder = Outside(), Recorder()
    method.fit(zoo(), out=tmp_path / "run", device="cpu", progress=recorder)
    assert recorder.metrics == [{"energy": 1.0 / iteration} for iteration in (1, 2, 3, 4)]
    assert list(method.run_.describe_metrics()) == ["energy", "hidden_loss"]
    assert method.run_.images(3, 2).shape == (2, 3, 2, 2)


def test_the_engine_is_read_from_the_newest_checkpoint_or_from_a_given_one(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    for path, iteration in ((tmp_path / "run", 4), (tmp_path / "run" / "checkpoints" / "000002", 2)):
        engine = read_engine(path, CPU)
        assert engine.config == ENGINE
        assert engine.preprocessing == PREPROCESSING
        assert set(engine.tensors) == {"weights"}  # without what the run stores of single members
        assert engine.tensors["weights"].tolist() == [iteration] * 3
        assert engine.source.endswith(f"{iteration:06d}")


def test_a_resumed_run_does_not_load_the_entry_of_the_engine(tmp_path: Path) -> None:
    method = trained(tmp_path / "run")
    method.fit(zoo(), out=tmp_path / "run", resume=True, device="cpu")
    assert read_engine(tmp_path / "run", CPU).tensors["weights"].tolist() == [4, 4, 4]


def test_an_error_says_what_is_wrong_with_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run of `dfml train` with a checkpoint"):
        read_engine(tmp_path / "missing", CPU)
    trained(tmp_path / "plain", engine=False)
    with pytest.raises(UsageError, match=r"000004 holds no meta-trained inversion engine; choose a run"):
        read_engine(tmp_path / "plain", CPU)
    trained(tmp_path / "run")
    with pytest.raises(RunError, match="expected a run"):
        read_engine(tmp_path / "run" / "checkpoints" / "000003", CPU)
    values = tmp_path / "run" / "checkpoints" / "000004" / "state.json"
    values.write_text(json.dumps({**json.loads(values.read_text()), "learned_engine": {}}))
    with pytest.raises(RunError, match="is damaged"):
        read_engine(tmp_path / "run", CPU)


@pytest.mark.parametrize("entry", [{}, {"config": {}, "preprocessing": {}, "tensors": ["weights"]}])
def test_an_incomplete_entry_is_an_error(tmp_path: Path, entry: dict[str, Any]) -> None:
    trained(tmp_path / "run")
    state = State({"engine.weights": torch.zeros(3)}, {"learned_engine": entry})
    save_checkpoint(tmp_path / "run" / "checkpoints", 5, state)
    with pytest.raises(RunError, match=r"the engine in checkpoint .*000005 cannot be read"):
        read_engine(tmp_path / "run", CPU)


def test_a_run_whose_state_lacks_the_engine_is_reported() -> None:
    engine = LearnedEngine(ENGINE, PREPROCESSING, {"weights": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"no engine\.weights; state_dict\(\) must return"):
        add_learned_engine(State({"weights": torch.zeros(3)}), engine)
    state = State()
    assert add_learned_engine(state, None) is state
