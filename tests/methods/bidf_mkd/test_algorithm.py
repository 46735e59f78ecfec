"""BiDf-MKD: members that only predict are distilled through the inner loop, within their limit of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfml.errors import RunError
from dfml.learners import LearnerConfig
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.bidf_mkd import BiDfMKD, BiDfMKDConfig, BiDfMKDRun
from dfml.training.run_folder import RunFolder
from dfml.zoo import CountedMember, Zoo
from tests.factories import images, member, zoo

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "way": 3,
    "query": 2,
    "iterations": 4,
    "images_per_class": 4,
    "memory": 8,
    "boundary_after": 2,
    "distillation_steps": 2,
    "replay": "fixed",
    "replay_steps": 1,
    "replay_tasks": 1,
    "inversion": {
        "engine": "zeroth_order",
        "confirmed_only": False,
        "zeroth_order": {"width": 8, "latent": 8, "steps": 2, "directions": 3},
    },
    "learner": LearnerConfig(inner_steps=1),
    "checkpoint_every": 2,
}


def start_run(members: Zoo | None = None, **settings: Any) -> BiDfMKDRun:
    run = BiDfMKD(**{**SMALL, **settings}).start(members or zoo(), CPU)
    assert isinstance(run, BiDfMKDRun)
    return run


def test_members_are_known_by_their_predictions_alone() -> None:
    run = start_run()
    assert all(isinstance(each, CountedMember) for each in run.zoo)
    metrics = run.step(1)
    # 12 images: 2 steps of 1 + 3 queries each, support and query halves; then each is stored without a check.
    assert metrics["queries"] == 12 * 8 + 12
    assert int(run.tasks.memory.written.sum()) == 12
    assert run.step(3)["queries"] > metrics["queries"]
    assert int(run.tasks.memory.written.sum()) == 12 + 24  # support images, and boundary query images


@pytest.mark.parametrize("name", ["head.weight", "backbone.blocks.3.norm.weight"])
def test_the_outer_gradient_goes_through_the_inner_steps(name: str) -> None:
    """Against differences of the distilled learner's loss, in float64, so close that no maximum changes its place."""
    run = start_run(Zoo.of([member(0).double()]), learner=LearnerConfig(inner_steps=1, head_start="random"))
    run.outer.parameters = {key: value.detach().double() for key, value in run.outer.parameters.items()}
    support, query = (images(6, seed=seed).double() for seed in (1, 2))

    def loss(value: Tensor) -> Tensor:
        run.outer.parameters[name] = value
        adapted, statistics = run._distil(0, support, second_order=True)
        return run._divergence(0, query, adapted, run._query_statistics(statistics))

    start = run.outer.parameters[name]
    for value in run.outer.parameters.values():
        value.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    ahead, behind = (loss((start + step * direction).detach().requires_grad_()).item() for step in (1e-7, -1e-7))
    assert (ahead - behind) / 2e-7 == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_what_was_learned_is_kept_when_the_limit_is_reached() -> None:
    run = start_run(Zoo.of([member(0, ("a", "b", "c")), member(1, ("c", "d", "e"))]), query_limit=260)
    messages = []
    for iteration in range(1, 7):
        metrics = run.step(iteration)
        messages += run.pop_messages()
    said = [message.split(" is not queried any more")[0] for message in messages if "not queried any more" in message]
    assert sorted(said) == ["member-000", "member-001"]
    assert metrics["queries"] <= 2 * 260
    assert "distillation_loss" not in metrics  # no member is left to ask
    assert metrics["replay_steps"] == 1.0  # on what was recovered
    assert run.learner().adapt(images(3), torch.arange(3)).predict_proba(images(2)).shape == (2, 3)


def test_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    settings = {**SMALL, "query_limit": 100_000}
    straight = BiDfMKD(**settings).fit(zoo(), out=tmp_path / "straight", device="cpu")
    BiDfMKD(**settings).fit(zoo(), out=tmp_path / "resumed", device="cpu")
    for path in sorted((tmp_path / "resumed" / "checkpoints" / "000004").iterdir()):
        path.unlink()
    method = BiDfMKD(**settings)
    resumed = method.fit(zoo(), out=tmp_path / "resumed", resume=True, device="cpu")
    assert isinstance(straight, GradientLearner)
    assert isinstance(resumed, GradientLearner)
    assert all(torch.equal(value, resumed.parameters[name]) for name, value in straight.parameters.items())
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("straight", "resumed")
    ]
    assert rows[0] == rows[1]
    assert rows[0][-1]["queries"] > rows[0][0]["queries"]


def test_an_engine_that_needs_gradients_has_no_member() -> None:
    with pytest.raises(RunError, match="it only predicts, and the engine ei needs"):
        start_run(inversion={"engine": "ei"})


def test_defaults_are_those_of_the_released_code() -> None:
    config = BiDfMKDConfig()
    engine = config.inversion.section()
    assert (engine.directions, engine.smoothing, engine.steps, engine.lr) == (100, 0.005, 200, 0.001)
    assert (config.images_per_class, config.distillation_steps, config.distillation_lr) == (30, 10, 0.01)
    assert (config.replay_patience, config.replay_tasks, config.outer_lr) == (200, 4, 0.001)
