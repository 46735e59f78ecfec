from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.backbones import create_backbone
from dfml.errors import ZooError
from dfml.learners import MetaLearner
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.methods.dro import DRO, DRORun
from dfml.methods.dro.weight_generator import worst_case_perturbations
from dfml.training.run_folder import RunFolder
from dfml.zoo import PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, images, member, zoo
from tests.methods.dro.small import backbones

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SMALL: dict[str, Any] = {
    "way": 3,
    "iterations": 6,
    "embedding_size": 4,
    "hidden": 16,
    "checkpoint_every": 2,
    "snapshot_every": 3,
}


def start_run(members: Zoo | None = None, **settings: Any) -> DRORun:
    run = DRO(**{**SMALL, **settings}).start(members or zoo(), CPU)
    assert isinstance(run, DRORun)
    return run


def trained(members: Zoo, **settings: Any) -> tuple[DRORun, list[dict[str, float]]]:
    run = start_run(members, **{"hidden": 64, "iterations": 300, **settings})
    return run, [dict(run.step(iteration)) for iteration in range(1, run.iterations + 1)]


def distances(found: Parameters, members: list[Parameters]) -> Tensor:
    """Distances of weights to every member's, by definition: in root mean square deviations, mean over tensors."""
    each = []
    for name in differing(members):
        all_of = torch.stack([weights[name] for weights in members]).double()
        scale = (all_of - all_of.mean(dim=0)).flatten(1).square().sum(dim=1).mean()
        each.append((all_of - found[name]).flatten(1).square().sum(dim=1) / scale)
    return torch.stack(each).mean(dim=0)


def differing(members: list[Parameters]) -> list[str]:
    """Names of the tensors in which untrained members differ: not batch-norm and biases."""
    return [name for name in members[0] if not torch.equal(members[0][name], members[1][name])]


@pytest.mark.parametrize("radius", [0.0, 0.3])
@pytest.mark.numeric
def test_the_members_weights_are_reconstructed(radius: float) -> None:
    members = zoo(5)
    run, metrics = trained(members, radius=radius, iterations=200)
    assert metrics[0]["reconstruction_loss"] == pytest.approx(1.0, abs=1e-3)  # the mean of all
    assert metrics[-1]["reconstruction_loss"] < 0.05
    with torch.no_grad():
        coefficients = run.generator.coefficients(run.generator.embeddings())
    for index, row in enumerate(coefficients):
        far = distances(run.weights.mix(row), backbones(members))
        assert far[index] < 0.1
        assert all(far[other] > 1.0 for other in range(5) if other != index)


@pytest.mark.numeric
def test_the_losses_are_the_distances_of_the_generated_weights() -> None:
    members = zoo(4)
    run = start_run(members)
    run.generator.parameters["coefficients.weight"].data.normal_(generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        points = run.generator.embeddings()
        losses = run.generator.losses(points, run.weights.gram)
        generated = [run.weights.mix(row) for row in run.generator.coefficients(points)]
    expected = torch.stack([distances(each, backbones(members))[index] for index, each in enumerate(generated)])
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.numeric
def test_the_robust_loss_is_that_of_worse_embeddings_within_the_radius() -> None:
    _, metrics = trained(zoo(5), radius=0.3, iterations=40)
    for row in metrics[1:]:  # at first all generated weights are the same
        assert row["robust_loss"] >= row["reconstruction_loss"]
        assert row["perturbation"] <= 0.3 * (1 + 1e-5)  # up to rounding
    assert metrics[-1]["robust_loss"] > metrics[-1]["reconstruction_loss"] + 0.01


@pytest.mark.numeric
def test_robust_training_makes_the_weights_less_sensitive_to_the_embedding() -> None:
    members = zoo(5)
    lost = []
    for radius in (0.0, 0.5):
        run, _ = trained(members, radius=radius, iterations=120)
        points, start = run.generator.embeddings().detach(), torch.randn(5, 4, generator=seeds.generator(3))
        moves = worst_case_perturbations(run._losses, points, start, radius=0.5, steps=5)
        with torch.no_grad():
            lost.append(float(run._losses(points + moves).mean()))
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize("radius", [0.0, 0.4])
def test_a_step_follows_the_plain_computation(radius: float) -> None:
    members = zoo(4)
    for each in members:
        each.double()
    run = start_run(members, radius=radius, ascent_steps=2, iterations=100)
    for value in run.generator.parameters.values():
        value.data = value.data.double()
    for iteration in (1, 2, 3):
        run.step(iteration)
    leaves = {name: v.detach().clone().requires_grad_() for name, v in run.generator.parameters.items()}
    centred = leaves["embeddings"] - leaves["embeddings"].mean(dim=0)
    points = centred / (centred.square().sum() / 4).sqrt()
    targets = backbones(members)

    def loss(at: Tensor) -> Tensor:
        hidden = functional.silu(at @ leaves["first.weight"].T + leaves["first.bias"])
        hidden = functional.silu(hidden @ leaves["second.weight"].T + leaves["second.bias"])
        coefficients = hidden @ leaves["coefficients.weight"].T + leaves["coefficients.bias"]
        total = torch.zeros((), dtype=torch.float64)
        for name in differing(targets):
            weights = torch.stack([each[name].flatten() for each in targets])
            deviation = weights - weights.mean(dim=0)
            generated = weights.mean(dim=0) + coefficients @ deviation
            total = total + (generated - weights).square().sum() / deviation.square().sum()
        return total / len(differing(targets))

    moves = torch.zeros_like(points)
    if radius:
        draw = torch.randn(4, 4, generator=seeds.generator(0, "move", 4)).double()
        moves = draw * radius * 2 / draw.norm()
        for _ in range(2):
            moves = moves.detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(points.detach() + moves), moves)
            moves = moves + slope * (radius * 2 / slope.norm())
            moves = moves * min(1.0, radius * 2 / moves.norm().item())
    expected = torch.autograd.grad(loss(points + moves.detach()), list(leaves.values()))
    metrics = run.step(4)
    robust = metrics["robust_loss" if radius else "reconstruction_loss"]
    assert robust == pytest.approx(loss(points + moves).item(), rel=1e-9)
    assert ("robust_loss" in metrics) is bool(radius)
    for value, gradient in zip(run.generator.parameters.values(), expected, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, gradient)


def test_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    DRO(**SMALL).fit(zoo(), out=tmp_path / "straight", device="cpu")
    DRO(**SMALL).fit(zoo(), out=tmp_path / "resumed", device="cpu")
    for path in sorted((tmp_path / "resumed" / "checkpoints" / "000006").iterdir()):
        path.unlink()  # remove the end, as after an interruption in meta-iteration 5
    (tmp_path / "resumed" / "model.safetensors").unlink()
    DRO(**SMALL).fit(zoo(), out=tmp_path / "resumed", resume=True, device="cpu")
    for file in ("model.safetensors", "checkpoints/000006/state.safetensors"):
        assert (tmp_path / "straight" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("straight", "resumed")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6


def test_the_learner_adapts_with_any_way_and_is_saved_and_loaded(tmp_path: Path) -> None:
    learner = DRO(**{**SMALL, "way": 5}).fit(zoo(), out=tmp_path, device="cpu")  # the members have three outputs
    assert isinstance(learner, GradientLearner)
    assert (learner.name, learner.test_inner_steps, learner.way) == ("dro", 10, 5)
    assert not learner.parameters["head.weight"].any()
    loaded = MetaLearner.from_pretrained(tmp_path)
    predictions = [each.adapt(images(6, 1), LABELS).predict_proba(images(4, 2)) for each in (learner, loaded)]
    assert torch.equal(*predictions)
    assert predictions[0].shape == (4, 3)


def nearest(run: DRORun, members: Zoo) -> tuple[int, float]:
    """The member whose weights are nearest to those of the learner, and their distance."""
    far = distances(run.learner().parameters, backbones(members))
    return int(far.argmin()), float(far.min())


@pytest.mark.numeric
def test_the_learner_is_sampled_from_the_ball_around_a_member() -> None:
    members = zoo(5)
    found = [nearest(trained(members, seed=seed, iterations=60)[0], members) for seed in range(4)]
    assert len({member for member, _ in found}) > 1
    assert all(far < 0.7 for _, far in found)
    at_member, _ = trained(members, initialisation="member", iterations=60)
    index, far = nearest(at_member, members)
    assert index == found[0][0]
    assert far != found[0][1]
    with torch.no_grad():
        expected = at_member.weights.mix(at_member.generator.coefficients(at_member.generator.embeddings())[index])
    for name, value in expected.items():
        torch.testing.assert_close(at_member.learner().parameters[name], value, rtol=1e-4, atol=1e-4)
    again = at_member.learner().parameters
    assert all(torch.equal(value, again[name]) for name, value in at_member.learner().parameters.items())


@pytest.mark.numeric
def test_the_learner_can_be_generated_from_the_mean_embedding() -> None:
    run, _ = trained(zoo(), initialisation="mean", iterations=20)
    with torch.no_grad():
        expected = run.weights.mix(run.generator.coefficients(torch.zeros(1, 4))[0])
    for name, value in expected.items():
        torch.testing.assert_close(run.learner().parameters[name], value, rtol=1e-4, atol=1e-4)


def test_later_steps_do_not_change_a_learner() -> None:
    run = start_run()
    run.step(1)
    learner = run.learner()
    before = {name: value.clone() for name, value in learner.parameters.items()}
    run.step(2)
    assert all(torch.equal(value, before[name]) for name, value in learner.parameters.items())
    assert not torch.equal(
        run.learner().parameters["backbone.blocks.0.conv.weight"], before["backbone.blocks.0.conv.weight"]
    )


def test_an_error_says_why_members_cannot_be_used() -> None:
    resnet = PretrainedClassifier(create_backbone("fewshot_resnet10", 3, seed=0), ("a", "b", "c"), PREPROCESSING)
    with pytest.raises(
        ZooError, match=r"^dro needs members of the learner's architecture conv4, but member-001 differs"
    ):
        start_run(Zoo.of([member(0), resnet]))
    for same in (Zoo.of([member(0)]), Zoo.of([member(0), member(0), member(0)])):
        with pytest.raises(ZooError, match=rf"all members have the same weights \({len(same)} found\); add members"):
            start_run(same)


@pytest.mark.numeric
def test_a_residual_network_is_generated_too() -> None:
    residual = [create_backbone("fewshot_resnet10", 3, seed=seed) for seed in range(3)]
    members = Zoo.of([PretrainedClassifier(each, ("a", "b", "c"), PREPROCESSING) for each in residual])
    run, metrics = trained(members, learner={"backbone": "fewshot_resnet10"}, radius=0.0, iterations=100)
    assert metrics[-1]["reconstruction_loss"] < 0.1
    assert run.learner().adapt(images(6, 1), LABELS).predict_proba(images(4, 2)).shape == (4, 3)
