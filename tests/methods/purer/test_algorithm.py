from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dfml import seeds
from dfml.errors import ConfigError, RunError, UsageError, ZooError
from dfml.inversion.loss import InversionWeights, inversion_loss
from dfml.inversion.views import View
from dfml.learners import LearnerConfig
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.purer import PURER, PurerConfig, PurerRun
from dfml.training.run_folder import RunFolder
from dfml.zoo import CountedMember, Preprocessing, Zoo
from tests.factories import PREPROCESSING, member, zoo
from tests.inversion.test_image_source import OtherDifferentiable

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "way": 3,
    "shot": 1,
    "query": 2,
    "episodes": 2,
    "iterations": 6,
    "warm_up": 2,
    "patience": 2,
    "checkpoint_every": 2,
    "snapshot_every": 3,
}


def start_run(members: Zoo | None = None, **settings: Any) -> PurerRun:
    run = PURER(**{**SMALL, **settings}).start(members or zoo(), CPU)
    assert isinstance(run, PurerRun)
    return run


def same(first: GradientLearner, second: GradientLearner) -> bool:
    return all(torch.equal(value, second.parameters[name]) for name, value in first.parameters.items())


def test_with_little_memory_the_images_of_a_member_are_passed_one_by_one() -> None:
    members = zoo()
    sizes: list[int] = []
    for classifier in members.classifiers():
        classifier.network.register_forward_pre_hook(
            lambda _, inputs: sizes.append(len(inputs[0])) if inputs[0].requires_grad else None
        )
    expected = start_run(members).step(1)
    assert max(sizes) == 9  # three classes of three images
    sizes.clear()
    found = start_run(members, inversion_memory=1e-9).step(1)
    assert set(sizes) == {1}  # what an image takes was measured before
    assert found["batch_norm_distance"] == pytest.approx(expected["batch_norm_distance"], rel=1e-3)


def test_the_inversion_gradient_is_that_of_the_sum_of_losses_each_with_the_member_s_own_classes() -> None:
    """The released code of PURER weights member i of n by n - i + 1; PURER-Plus permutes labels against classes."""
    members = Zoo.of(
        [member(0, ("cat", "ant", "dog")), member(1, ("bee", "dog", "elk")), member(2, ("ant", "fox", "bee"))]
    )
    weights = InversionWeights(batch_norm=0.3, jitter=0)
    run = start_run(members, inversion=weights, images_per_class=4)
    with torch.no_grad():
        run.dataset.pixels.data = run.dataset.pixels.data.double()
    for classifier in members:
        classifier.double()
    pixels = run.dataset.pixels.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for classifier in members:
        for_member = [pixels[members.classes.names.index(label)] for label in classifier.labels]
        labels = torch.arange(3).repeat_interleave(4)
        total = total + inversion_loss(classifier, torch.cat(for_member), labels, PREPROCESSING, weights, View()).total
    (expected,) = torch.autograd.grad(total, pixels)
    found, metrics = run._inversion_gradient(1)
    torch.testing.assert_close(found, expected)
    assert metrics["inversion_loss"] > 0


def test_members_of_a_large_zoo_are_sampled_in_every_step() -> None:
    run = start_run(zoo(6), members_per_step=2)
    drawn = {tuple(run._sample_members(iteration)) for iteration in range(1, 60)}
    assert all(len(set(members)) == 2 for members in drawn)
    assert {member for members in drawn for member in members} == set(range(6))
    before = run.dataset.pixels.detach().clone()
    run.step(1)
    expected = {index for chosen in run._sample_members(1) for index in run.zoo.classes.of_member[chosen]}
    moved = (run.dataset.pixels.detach() - before).abs().sum(dim=(1, 2, 3, 4)) > 0
    assert {index for index, flag in enumerate(moved.tolist()) if flag} == expected


@pytest.mark.numeric
def test_the_curriculum_raises_the_outer_loss_of_its_episode() -> None:
    run = start_run(
        iterations=30, warm_up=1, curriculum_weight=10.0, inversion=InversionWeights(label=0.001, batch_norm=0.0)
    )
    fired = [metrics for i in range(1, 31) if "switch_loss_before" in (metrics := dict(run.step(i)))]
    assert len(fired) >= 3
    assert all(metrics["switch_loss_after"] > metrics["switch_loss_before"] for metrics in fired)


@pytest.mark.numeric
def test_the_curriculum_follows_the_reversed_gradient_of_the_outer_loss() -> None:
    run = start_run(curriculum_weight=0.5)
    plain, _ = run._inversion_gradient(1)
    (outer_gradient,) = torch.autograd.grad(run._curriculum_loss(1), run.dataset.pixels)
    assert outer_gradient.abs().sum() > 0
    taken: list[torch.Tensor] = []
    run.pixel_optimiser.register_step_pre_hook(lambda *_: taken.append(run.dataset.pixels.grad.clone()))  # type: ignore[union-attr,arg-type,return-value]
    run.switch.observe(2, 0.0)
    run.step(1)
    torch.testing.assert_close(taken[0], plain - 0.5 * outer_gradient)


@pytest.mark.numeric
def test_a_separate_step_has_its_length_and_leaves_adam_to_the_inversion() -> None:
    def after_a_step(*, fires: bool) -> tuple[PurerRun, dict[str, float]]:
        run = start_run(curriculum_weight=0.5, curriculum_update="separate")
        if fires:
            run.switch.observe(2, 0.0)
        return run, dict(run.step(1))

    (plain, _), (harder, metrics) = after_a_step(fires=False), after_a_step(fires=True)
    moments = [run.pixel_optimiser.state_dict()["state"][0] for run in (plain, harder)]
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in ("exp_avg", "exp_avg_sq"))
    step = (harder.dataset.pixels - plain.dataset.pixels).detach()
    of_episode = step[step.flatten(2).abs().amax(dim=2) > 0]
    assert len(of_episode) == 3 * (1 + 2)
    torch.testing.assert_close(of_episode.square().mean().sqrt().item(), 0.5 * plain.config.pixel_lr, rtol=1e-4, atol=0)
    assert metrics["switch_loss_after"] > metrics["switch_loss_before"]


def test_without_weight_the_curriculum_never_fires() -> None:
    run = start_run(curriculum_weight=0.0, warm_up=1)
    assert not any("switch_loss_before" in run.step(iteration) for iteration in range(1, 12))


@pytest.mark.numeric
def test_the_outer_step_is_taken_on_the_sum_over_episodes() -> None:
    run = start_run(episodes=3)
    expected = [torch.zeros_like(value) for value in run.outer.parameters.values()]
    for index in range(3):
        episode = run.dataset.episode(3, 1, 2, seeds.generator(0, "episode", 1, index))
        loss = run.outer.blank.episode_loss(run.outer.parameters, run.outer.running_statistics, episode).loss
        for total, part in zip(expected, torch.autograd.grad(loss, list(run.outer.parameters.values())), strict=True):
            total += part
    run._meta_train(1)
    for value, gradient in zip(run.outer.parameters.values(), expected, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, gradient)


@pytest.mark.parametrize("kind", ["maml", "anil", "protonet"])
@pytest.mark.numeric
def test_the_outer_loss_decreases_with_every_learner(kind: str) -> None:
    learner = LearnerConfig(kind=kind, inner_lr=0.1)  # type: ignore[arg-type]
    run = start_run(learner=learner, iterations=60, curriculum_weight=0.0, outer_lr=0.01)
    metrics = [run.step(iteration) for iteration in range(1, 61)]
    first, last = (sum(m["outer_loss"] for m in part) for part in (metrics[:10], metrics[-10:]))
    assert last < 0.8 * first
    assert metrics[-1]["inversion_loss"] < metrics[0]["inversion_loss"]


@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_resumed_ends_with_the_same_bits(tmp_path: Path, shrinkage: float) -> None:
    settings = {**SMALL, "learner": LearnerConfig(statistics_shrinkage=shrinkage, inner_steps=2)}
    straight = PURER(**settings).fit(zoo(), out=tmp_path / "straight", device="cpu")
    PURER(**settings).fit(zoo(), out=tmp_path / "resumed", device="cpu")
    for name in ("000006",):  # remove the end, as after an interruption in meta-iteration 5
        for path in sorted((tmp_path / "resumed" / "checkpoints" / name).iterdir()):
            path.unlink()
    resumed = PURER(**settings).fit(zoo(), out=tmp_path / "resumed", resume=True, device="cpu")
    assert isinstance(straight, GradientLearner)
    assert isinstance(resumed, GradientLearner)
    assert same(straight, resumed)
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("straight", "resumed")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6
    straight_bytes, resumed_bytes = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "resumed")
    )
    assert straight_bytes == resumed_bytes


def test_runs_with_and_without_curriculum_can_start_from_one_warm_up(tmp_path: Path) -> None:
    PURER(**{**SMALL, "iterations": 2}).fit(zoo(), out=tmp_path / "warm", device="cpu")
    start = tmp_path / "warm" / "checkpoints" / "000002"
    for weight in (0.0, 10.0):
        out = tmp_path / f"weight-{weight}"
        PURER(**SMALL, curriculum_weight=weight).fit(zoo(), out=out, start_from=start, device="cpu")
        rows = RunFolder(out).read_metrics()
        assert rows[0]["iteration"] == 3
        assert ("switch_loss_before" in rows[0]) is (weight > 0)


def test_resuming_with_other_settings_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    PURER(**SMALL).fit(zoo(), out=tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"purer\.pixel_lr 0\.25 -> 0\.5"):
        PURER(**SMALL, pixel_lr=0.5).fit(zoo(), out=tmp_path / "run", resume=True, device="cpu")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    PURER(**{**SMALL, "iterations": 2}).fit(zoo(), out=tmp_path / "warm", device="cpu")
    start = tmp_path / "warm" / "checkpoints" / "000002"
    with pytest.raises(RunError, match=r"does not fit this run: outer\.parameters\.head\.weight has shape \(3, 32\)"):
        PURER(**{**SMALL, "way": 4}).fit(zoo(), out=tmp_path / "out", start_from=start, device="cpu")
    assert not (tmp_path / "out").exists()


def test_averaged_start_is_the_mean_of_the_members() -> None:
    members = zoo(3)
    run = start_run(members, start="average")
    mean = torch.stack([m.network.state_dict()["blocks.1.conv.weight"] for m in members]).mean(dim=0)
    torch.testing.assert_close(run.outer.parameters["backbone.blocks.1.conv.weight"].detach(), mean)


def test_members_of_other_sizes_and_normalisations_take_part() -> None:
    larger = Preprocessing(32, (0.1, 0.1, 0.1), (0.5, 0.5, 0.5))
    members = Zoo.of([member(0, ("ant", "bee", "cat")), member(1, ("cat", "dog", "elk"), larger)])
    run = start_run(members)
    assert run.dataset.preprocessing.size == 32  # the larger one of two equally frequent sizes
    assert run.step(1)["inversion_loss"] > 0


def test_defaults_are_those_of_the_paper_with_a_random_start() -> None:
    config = PurerConfig()
    assert (config.iterations, config.warm_up, config.patience, config.episodes) == (60_000, 4000, 6, 4)
    assert (config.pixel_lr, config.outer_lr, config.curriculum_weight, config.start) == (0.25, 0.001, 10.0, "random")
    assert (config.learner.inner_steps, config.learner.inner_lr, config.learner.second_order) == (1, 0.01, True)
    assert config.inversion.model_dump(include={"batch_norm", "total_variation", "l2", "jitter"}) == {
        "batch_norm": 0.01,
        "total_variation": 1e-4,
        "l2": 1e-5,
        "jitter": 2,
    }
    assert start_run(shot=5, query=15).dataset.pixels.shape[1] == 20


def test_settings_that_cannot_work_are_refused_before_the_start() -> None:
    with pytest.raises(UsageError, match=r"way 9 is larger than the number of classes that can be inverted \(7\)"):
        start_run(way=9)
    with pytest.raises(UsageError, match=r"a dataset of 1000000000 images \(images_per_class\) of each of 7 classes"):
        start_run(images_per_class=10**9)
    with pytest.raises(ConfigError, match=r"wieght': unknown setting; did you mean 'purer\.curriculum_weight'"):
        PURER(curriculum_wieght=1.0)
    with pytest.raises(
        ConfigError, match=r"learner.inner': unknown setting; did you mean .*\? Known are kind, backbone"
    ):
        PURER(learner={"inner": 1})
    with pytest.raises(ConfigError, match="PURER has no student"):
        PURER(inversion={"disagreement": 1.0})
    with pytest.raises(ConfigError, match=r"learner.inner_lr'"):
        PURER(learner={"inner_lr": -1})


def test_the_state_does_not_grow_and_keeps_no_graph() -> None:
    run = start_run(iterations=12)
    sizes = []
    for iteration in range(1, 13):
        run.step(iteration)
        state = run.state_dict()
        sizes.append({name: tensor.numel() for name, tensor in state.tensors.items()})
    assert all(size == sizes[0] for size in sizes)
    assert json.dumps(run.state_dict().values)
    assert not any(value.grad_fn for value in run.outer.parameters.values())


def test_members_that_only_predict_take_no_part_and_neither_do_their_classes() -> None:
    """With such a member added, all else is as without it."""
    pair = [member(0, ("ant", "bee", "cat")), member(1, ("cat", "dog", "elk"))]
    plain = start_run(Zoo.of(pair))
    run = start_run(Zoo.of([*pair, CountedMember(member(2, ("ant", "fox", "gnu")))]), stacked=True)
    assert run.pop_messages() == ["member-002 is not inverted: it only predicts, and purer needs gradients"]
    assert run.pop_messages() == []
    assert run._sample_members(1) == [0, 1]
    for iteration in (1, 2, 3):
        metrics, expected = run.step(iteration), plain.step(iteration)
        assert {k: v for k, v in metrics.items() if "seconds" not in k} == {
            k: v for k, v in expected.items() if "seconds" not in k
        }
    assert same(run.learner(), plain.learner())
    assert len(run.images(run.zoo.classes.names.index("fox"), 5)) == 0
    assert len(run.images(run.zoo.classes.names.index("dog"), 2)) == 2


def test_a_member_of_another_type_is_left_out_with_the_reason() -> None:
    other = OtherDifferentiable(member(2, ("ant", "fox", "gnu")))
    run = start_run(Zoo.of([member(0, ("ant", "bee", "cat")), member(1, ("cat", "dog", "elk")), other]))
    reason = "its type is OtherDifferentiable, and purer needs PretrainedClassifier"
    assert run.pop_messages() == [f"member-002 is not inverted: {reason}"]
    with pytest.raises(ZooError, match=rf"none of the 1 members .*{reason}"):
        start_run(Zoo.of([other]))


def test_a_zoo_whose_members_only_predict_is_refused() -> None:
    with pytest.raises(ZooError, match=r"none of the 2 members .*it only predicts.*; use --method zoo_embedding"):
        start_run(Zoo.of([CountedMember(member(index)) for index in range(2)]))
