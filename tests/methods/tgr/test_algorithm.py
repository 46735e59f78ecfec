"""TGR: members are described in turn, then distilled group by group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dfml.learners import LearnerConfig
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.tgr import TGR, TGRConfig, TGRRun
from dfml.training.run_folder import RunFolder
from dfml.zoo import Zoo
from tests.factories import member, write, zoo

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "way": 3,
    "query": 2,
    "iterations": 6,
    "members_per_step": 2,
    "images_per_class": 4,
    "memory": 8,
    "groups": 2,
    "replay": "fixed",
    "replay_steps": 1,
    "replay_tasks": 1,
    "inversion": {
        "engine": "cmi",
        "confirmed_only": False,
        "cmi": {"width": 8, "latent": 8, "steps": 2, "contrast": 0.0},
    },
    "learner": LearnerConfig(inner_steps=1),
    "checkpoint_every": 2,
}


def start_run(members: Zoo | None = None, **settings: Any) -> TGRRun:
    run = TGR(**{**SMALL, **settings}).start(members or zoo(5), CPU)
    assert isinstance(run, TGRRun)
    return run


def test_members_take_turns_until_all_are_described_and_then_belong_to_one_group() -> None:
    run = start_run()
    for iteration, described in ((1, 2), (2, 4), (3, 5)):
        run.step(iteration)
        assert len(run.fisher) == described
    groups = [set(group) for group in run._groups()]
    assert sorted(index for group in groups for index in group) == list(range(5))
    drawn = [frozenset(run._sample_members(iteration)) for iteration in range(4, 40)]
    assert all(any(members <= group for group in groups) for members in drawn)
    assert {index for members in drawn for index in members} == set(range(5))
    assert max(len(members) for members in drawn) <= 2


def test_members_that_are_not_described_are_a_group_of_their_own() -> None:
    run = start_run()
    for iteration in (1, 2, 3):
        run.step(iteration)
    del run.fisher[0], run.fisher[3]
    drawn = {frozenset(run._sample_members(iteration)) for iteration in range(4, 60)}
    assert frozenset({0, 3}) in drawn
    assert not any({0, 3} & members and members - {0, 3} for members in drawn)


def test_one_group_is_the_whole_zoo() -> None:
    run = start_run(groups=1)
    assert {index for iteration in range(1, 30) for index in run._sample_members(iteration)} == set(range(5))


def test_a_backbone_of_the_user_describes_members(tmp_path: Path) -> None:
    probe = write(tmp_path / "probe", member(9))
    own, other = start_run(), start_run(probe=str(probe))
    for run in (own, other):
        run.step(1)
    names = {name for name, _ in member(9).named_parameters()}
    described = next(iter(other.fisher.values()))
    assert {name.removeprefix("classifier.") for name in described} == names
    assert any(bool(value.any()) for value in described.values())
    assert next(iter(own.fisher.values())).keys() != described.keys()


def test_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight = TGR(**SMALL).fit(zoo(5), out=tmp_path / "straight", device="cpu")
    TGR(**SMALL).fit(zoo(5), out=tmp_path / "resumed", device="cpu")
    for path in sorted((tmp_path / "resumed" / "checkpoints" / "000006").iterdir()):
        path.unlink()
    resumed = TGR(**SMALL).fit(zoo(5), out=tmp_path / "resumed", resume=True, device="cpu")
    assert isinstance(straight, GradientLearner)
    assert isinstance(resumed, GradientLearner)
    assert all(torch.equal(value, resumed.parameters[name]) for name, value in straight.parameters.items())
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("straight", "resumed")
    ]
    assert rows[0] == rows[1]


def test_labels_count_beside_the_members_predictions() -> None:
    losses = []
    for weight in (0.0, 1.0):
        run = start_run(label_weight=weight)
        losses.append(run.step(1)["distillation_loss"])
    assert losses[1] > losses[0] + 0.1


def test_defaults_are_those_of_the_released_code() -> None:
    config = TGRConfig()
    engine = config.inversion.section()
    assert (engine.steps, engine.contrast) == (200, 0.0)
    assert (engine.weights.label, engine.weights.batch_norm, engine.weights.disagreement) == (1.0, 1.0, 0.0)
    assert (config.groups, config.members_per_step, config.regularisation, config.label_weight) == (5, 4, 0.001, 1.0)
    assert (config.iterations, config.images_per_class, config.replay_patience, config.replay_tasks) == (
        1200,
        30,
        4,
        16,
    )
