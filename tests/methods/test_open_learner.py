from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml import MetaLearner, open_learner
from dfml.errors import LearnerError, UsageError
from dfml.methods import METHODS
from dfml.methods.best_member import BestMember, BestMemberConfig
from dfml.training.progress import SilentProgress
from tests.factories import written_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "zoo"
    written_zoo(path)
    return path


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_is_a_name_or_a_torch_device(zoo: Path, tmp_path: Path, device: str | torch.device) -> None:
    learner = open_learner(f"zoo_embedding:{zoo}", device)
    assert learner.device == torch.device("cpu")
    learner.save_pretrained(tmp_path / "learner")
    assert open_learner(tmp_path / "learner", device).name == "zoo_embedding"


def test_an_unknown_device_is_wrong_usage(zoo: Path) -> None:
    with pytest.raises(UsageError, match="'abacus'"):
        open_learner(f"zoo_embedding:{zoo}", "abacus")


def test_the_device_is_chosen_automatically(zoo: Path) -> None:
    assert isinstance(open_learner(f"random_init:{zoo}", way=3), MetaLearner)


class Recorded(SilentProgress):
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.messages: list[str] = []
        self.done = 0

    def update(self, done: int, metrics: object) -> None:
        self.done = done

    def message(self, text: str) -> None:
        self.messages.append(text)


class ShortConfig(BestMemberConfig):
    iterations: int = 2
    images_per_class: int = 1


class Short(BestMember):
    name = "short"
    config_type = ShortConfig


def test_a_short_training_is_run_and_shown(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "short", Short)
    shown: list[Recorded] = []

    def progress(title: str, total: int) -> Recorded:
        shown.append(Recorded(title, total))
        return shown[-1]

    learner = open_learner(f"short:{zoo}", "cpu", way=3, progress=progress)
    assert learner.way == 3
    (display,) = shown
    assert (display.title, display.total, display.done) == ("short", 2, 2)
    assert display.messages[0].startswith(f"short is trained on {zoo} first")
    open_learner(f"random_init:{zoo}", "cpu", progress=progress)
    assert len(shown) == 1  # nothing to train, nothing to show


def test_only_best_member_trains_on_demand() -> None:
    assert [name for name, method in METHODS.items() if method.trains_on_demand] == ["best_member"]


@pytest.mark.parametrize("method", ["purer", "free", "zoo_student", "dro"])
def test_a_long_training_is_refused_with_the_command(zoo: Path, method: str) -> None:
    with pytest.raises(UsageError, match=rf"{method} has to be trained .*dfml train .* --method {method}"):
        open_learner(f"{method}:{zoo}")


def test_a_path_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="expected a learner's folder"):
        open_learner(tmp_path / "missing")
