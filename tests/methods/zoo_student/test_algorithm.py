from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfml.errors import RunError, UsageError
from dfml.evaluation.protocol import evaluate
from dfml.inversion.registry import engine_names
from dfml.learners import MetaLearner
from dfml.learners.embedding import episode_loss
from dfml.learners.student import Student
from dfml.methods.zoo_student import ZooStudent, ZooStudentRun
from dfml.training.loop import restore
from dfml.training.progress import SilentProgress
from dfml.training.run_folder import RunFolder
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.members import query_members
from tests.factories import coloured_dataset, images, member, zoo

CPU = torch.device("cpu")
TINY = {"width": 8, "latent": 8, "steps": 2}
SMALL: dict[str, Any] = {
    "way": 3,
    "iterations": 4,
    "members_per_step": 2,
    "images_per_class": 3,
    "teachers": 2,
    "memory": 60,
    "student_steps": 2,
    "batch": 8,
    "precision": "float32",  # the same on any machine
    # The few steps of these tests recover hardly an image that a member recognises: test_confirmation.py has that rule.
    "inversion": {
        "confirmed_only": False,
        "fallback": None,
        "five": TINY,
        "fast_dfkd": TINY,
        "cmi": TINY,
        "ei": {"steps": 2, "search_steps": 0},
        "consensus": {"steps": 2, "search_steps": 0},
        "zeroth_order": {**TINY, "directions": 4},
    },
    "checkpoint_every": 2,
    "snapshot_every": 2,
}


def start_run(members: Zoo | None = None, **settings: Any) -> ZooStudentRun:
    run = ZooStudent(**{**SMALL, **settings}).start(members or zoo(), CPU)
    assert isinstance(run, ZooStudentRun)
    return run


def weights(run: ZooStudentRun) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.student.network.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.numeric
def test_the_student_learns_the_predictions_of_all_members() -> None:
    members = zoo(3)
    quick = {"images_per_class": 6, "memory": 2000, "student_steps": 10, "batch": 32, "backbone": "conv4"}
    run = start_run(members, iterations=12, teachers=None, lr=0.02, **quick)
    untrained = run.learner()
    for iteration in range(1, 13):
        run.step(iteration)
    assert run.updates == 12 * 10
    shown = run.buffer.images[: len(run.buffer) : 7].float() / 255
    predictions = run.student.member_outputs.log_softmax(query_members(members, shown))
    with torch.no_grad():
        before, after = (
            run.student.member_outputs.divergence(predictions, each.logits(shown), 1.0).item()
            for each in (untrained, run.learner())
        )
    assert after < 0.5 * before  # at most 0.25 over seeds and instruction sets


def test_a_buffer_that_does_not_fit_the_memory_is_refused_before_the_start() -> None:
    with pytest.raises(UsageError, match=r"a memory of 1000000000 images \(memory\), of side length 16 pixels"):
        start_run(memory=10**9, iterations=10**9)


def test_a_member_with_many_classes_is_inverted_for_some_of_them_at_a_time() -> None:
    members = Zoo.of([member(0, tuple("abcdefgh")), member(1, tuple("cdefghij"))])
    run = start_run(
        members, mixed=0, memory=1000, inversion={**SMALL["inversion"], "engine": "ei", "classes_per_round": 3}
    )
    assert len(run.buffer.images) == 4 * 2 * 3 * 3  # iterations, members, classes, images of each
    for iteration in (1, 2, 3, 4):
        run.step(iteration)
    assert len(run.buffer) == 4 * 2 * 3 * 3
    assert len(run.buffer.slots_by_class(3)) > 6
    for index in (0, 1):
        labels = run.source.labels(index, 3, 1)
        place = 9 * run.source.next_members(1, 2).index(index)
        assert torch.equal(run.buffer.classes[place : place + 9], run.classes_of_member[index][labels])


def test_a_wider_student_is_the_same_with_more_channels() -> None:
    channels = {"backbone_arguments": {"channels": [64, 128, 256, 512]}}
    usual, wide = (start_run(backbone="conv4_pyramid", **more).student for more in ({}, channels))
    shapes, wider = ([value.shape for value in each.network.parameters() if value.ndim == 4] for each in (usual, wide))
    assert wide.architecture["architecture"] == usual.architecture["architecture"]
    assert [shape[0] for shape in wider] == [2 * shape[0] for shape in shapes]


@pytest.mark.numeric
def test_every_image_is_stored_with_the_predictions_of_its_teachers() -> None:
    members = zoo(4)
    run = start_run(members, teachers=3, mixed=0)
    run.step(1)
    assert len(run.buffer) == 2 * 3 * 3
    stored, predictions = (
        run.buffer.images[: len(run.buffer)].float() / 255.0,
        run.buffer.log_probabilities[: len(run.buffer)].float(),
    )
    queried = [not bool(part.isnan().any()) for part in torch.split(predictions, 3, dim=1)]
    assert sum(queried) == 3
    assert set(run.source.next_members(1, 2)) <= {index for index, was_queried in enumerate(queried) if was_queried}
    expected = run.student.member_outputs.log_softmax(query_members(members, stored))
    known = ~predictions.isnan()
    torch.testing.assert_close(predictions[known], expected[known], atol=1e-2, rtol=1e-2)


@pytest.mark.numeric
def test_only_networks_compute_in_bfloat16() -> None:
    leaves = {**SMALL["inversion"], "ei": {"steps": 2, "start": "dead_leaves"}}
    runs = [start_run(precision=precision, teachers=None, inversion=leaves) for precision in ("float32", "bfloat16")]
    rows = [[run.step(iteration) for iteration in (1, 2)] for run in runs]
    full, half = (
        run.buffer.log_probabilities[:18].float() for run in runs
    )  # of the first step, which does not depend on the student
    assert torch.equal(*(run.buffer.images[:18] for run in runs))
    assert not torch.equal(full, half)
    torch.testing.assert_close(half.exp(), full.exp(), atol=0.08, rtol=0.0)  # 8 bits a weight err by 0.02
    assert {value.dtype for value in runs[1].student.network.parameters()} == {torch.float32}
    assert rows[1][1]["distillation_loss"] == pytest.approx(rows[0][1]["distillation_loss"], rel=0.2)
    assert not equal(*(weights(run) for run in runs))


def test_mixed_images_are_made_from_earlier_ones_and_predicted_too() -> None:
    run = start_run(mixed=2, memory=100)
    run.step(1)
    assert len(run.buffer) == 18  # there were no earlier images to mix with
    run.step(2)
    assert len(run.buffer) == 18 + 3 * 18
    assert not bool((run.buffer.images[36:54].flatten(1) == run.buffer.images[18:36].flatten(1)).all())


def test_a_part_of_every_batch_is_an_episode_of_recovered_classes() -> None:
    run = start_run(mixed=1, batch=30, episode_way=4, episode_shot=2, episode_query=1, memory=200)
    for iteration in (1, 2):
        run.step(iteration)
    slots_by_class = run.buffer.slots_by_class(3)
    chosen, way = run._sample_batch(slots_by_class, torch.Generator().manual_seed(0))
    assert (len(chosen), way) == (30, 4)
    classes = run.buffer.classes[chosen]
    support, query = classes[:8].view(4, 2), classes[8:12]
    assert torch.equal(support, query[:, None].expand(4, 2))
    assert len(set(query.tolist())) == 4
    assert bool((query >= 0).all())
    assert all(len(set(chosen[[2 * row, 2 * row + 1, 8 + row]].tolist())) == 3 for row in range(4))
    assert bool((classes[12:] == -1).any())  # the others are any images, mixed ones too


@pytest.mark.parametrize(
    ("settings", "way"),
    [({"episode_way": 50}, 3), ({"batch": 15, "episode_way": 3}, 2), ({"batch": 8}, 0), ({"episode_query": 9}, 0)],
)
def test_an_episode_has_at_most_the_classes_that_exist_and_fit_a_batch(settings: dict[str, Any], way: int) -> None:
    """One member of three classes, eight images of each; seven make one class of an episode by default."""
    once = {"members_per_step": 1, "images_per_class": 8, "teachers": None, "iterations": 1, "batch": 64}
    run = start_run(Zoo.of([member(0)]), **{**once, "episodic_share": 0.9, **settings})
    row = run.step(1)
    _, found = run._sample_batch(
        run.buffer.slots_by_class(run.config.episode_shot + run.config.episode_query), torch.Generator()
    )
    assert found == way
    assert ("episodic_loss" in row) == (way > 0)


def test_the_episodic_steps_come_last_with_a_learning_rate_of_their_own() -> None:
    run = start_run(iterations=20, student_steps=5, images_per_class=7, batch=14, memory=2000, backbone="conv4")
    rows = [run.step(iteration) for iteration in range(1, 21)]
    # The episodic steps are 15 of 100; later meta-iterations have more steps.
    assert ["episodic_loss" in row for row in rows] == [False] * 18 + [True] * 2
    rates = []
    for run.updates in range(101):
        rates.append(run._rate())
    assert rates[8] == pytest.approx(max(rates), rel=0.1)
    assert max(rates) <= 1.0
    assert rates[85] < 1e-3
    assert rates[86] == pytest.approx(0.2, rel=0.02)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    plain = start_run(iterations=20, student_steps=5, episodic=0.0, backbone="conv4")
    plain.updates = 86
    assert plain._rate() == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.76 / 0.9)))


@pytest.mark.numeric
def test_the_episodic_loss_is_lower_after_training_with_it() -> None:
    """With the same images and predictions, training with episodes lowers the episodic loss more than without."""
    losses = []
    for episodic in (0.0, 20.0):
        settings = {"images_per_class": 8, "memory": 500, "student_steps": 16, "batch": 64, "episodic_share": 0.7}
        settings |= {"backbone": "conv4", "inversion": {"ei": {"steps": 15, "lr": 0.2}}}
        run = start_run(zoo(2), iterations=3, episodic=episodic, **settings)
        for iteration in range(1, 4):
            row = run.step(iteration)
        assert ("episodic_loss" in row) == (episodic > 0)
        chosen, way = run._sample_batch(run.buffer.slots_by_class(7), torch.Generator().manual_seed(1))
        with torch.no_grad():
            losses.append(episode_loss(run.student.embed(run.buffer.get(chosen)[0]), way, 3, 4).item())
    assert losses[1] < losses[0] - 0.1  # by at least 0.3 over seeds


@pytest.mark.parametrize(("engine", "precision"), [*product(engine_names(), ["float32"]), ("ei", "bfloat16")])
def test_resumed_ends_with_the_same_bits(tmp_path: Path, engine: str, precision: str) -> None:
    settings = {**SMALL, "precision": precision, "inversion": {**SMALL["inversion"], "engine": engine}}
    ZooStudent(**settings).fit(zoo(), out=tmp_path / "straight", device="cpu")
    ZooStudent(**settings).fit(zoo(), out=tmp_path / "resumed", device="cpu")
    for path in sorted((tmp_path / "resumed" / "checkpoints" / "000004").iterdir()):
        path.unlink()  # remove the end, as after an interruption in meta-iteration 3
    ZooStudent(**settings).fit(zoo(), out=tmp_path / "resumed", resume=True, device="cpu")
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert ends[0] == ends[1]
    states = [tmp_path / name / "checkpoints" / "000004" / "state.safetensors" for name in ("straight", "resumed")]
    assert states[0].read_bytes() == states[1].read_bytes()
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("straight", "resumed")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


@pytest.mark.parametrize("changed", [{"iterations": 8}, {"iterations": 3}, {"mixed": 0}, {"memory": 7}])
def test_a_run_can_start_from_a_checkpoint_with_other_settings_of_the_images(
    tmp_path: Path, changed: dict[str, int]
) -> None:
    ZooStudent(**SMALL).fit(zoo(), out=tmp_path / "first", device="cpu")
    start = tmp_path / "first" / "checkpoints" / "000002"
    ZooStudent(**{**SMALL, **changed}).fit(zoo(), out=tmp_path / "second", start_from=start, device="cpu")
    rows = RunFolder(tmp_path / "second").read_metrics()
    assert [row["iteration"] for row in rows] == list(range(3, {**SMALL, **changed}["iterations"] + 1))


def test_a_backbone_with_dropout_is_resumed_with_the_same_bits(tmp_path: Path) -> None:
    settings = {**SMALL, "backbone": "test_resnet", "backbone_arguments": {"drop_rate": 0.5}}
    straight = ZooStudent(**settings).fit(zoo(), out=tmp_path / "straight", device="cpu")
    torch.manual_seed(7)
    run = start_run(**{key: settings[key] for key in ("backbone", "backbone_arguments")})
    done = restore(run, tmp_path / "straight" / "checkpoints" / "000002", CPU)
    for iteration in range(done + 1, 5):
        run.step(iteration)
    assert isinstance(straight, Student)
    assert equal(straight.network.state_dict(), weights(run))


@pytest.mark.numeric
def test_members_of_several_architectures_sizes_and_ways_are_distilled_together() -> None:
    from dfml.backbones import create_backbone

    larger = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    other = PretrainedClassifier(create_backbone("fewshot_resnet10", 4, seed=1), ("w", "x", "y", "z"), larger)
    members = Zoo.of([member(0, ("ant", "bee", "cat")), other])
    run = start_run(members, img_size=16, teachers=None, inversion={**SMALL["inversion"], "budget": 0})
    run.step(1)
    shown = run.buffer.images[: len(run.buffer)].float() / 255.0
    assert shown.shape == (21, 3, 16, 16)
    expected = run.student.member_outputs.log_softmax(query_members(members, shown))
    torch.testing.assert_close(run.buffer.log_probabilities[:21].float(), expected, atol=1e-2, rtol=1e-2)
    assert run.learner().embed(images(2)).shape == (2, 7)


def test_a_student_of_one_member_adapts_to_any_number_of_classes() -> None:
    learner = ZooStudent(**SMALL).fit(zoo(1), device="cpu")
    for way in (2, 7):
        probabilities = learner.adapt(images(2 * way, 1), torch.arange(way).repeat(2)).predict_proba(images(3, 2))
        assert probabilities.shape == (3, way)
    assert learner.protocol == "any"


@pytest.mark.numeric
def test_a_loaded_learner_is_the_same_and_better_than_chance(tmp_path: Path) -> None:
    learner = ZooStudent(**SMALL).fit(zoo(), out=tmp_path / "run", device="cpu")
    loaded = MetaLearner.from_pretrained(tmp_path / "run")
    assert isinstance(learner, Student)
    assert isinstance(loaded, Student)
    assert torch.equal(learner.embed(images(4)), loaded.embed(images(4)))
    found = evaluate(loaded, coloured_dataset(), way=3, shot=5, query=5, episodes=20)
    assert found.accuracy > 0.5  # the classes differ in colour; chance level is a third


def test_a_snapshot_is_not_changed_by_later_steps() -> None:
    run = start_run()
    run.step(1)
    snapshot = run.learner()
    before = {name: value.clone() for name, value in snapshot.network.state_dict().items()}
    run.step(2)
    assert equal(before, dict(snapshot.network.state_dict()))
    assert not equal(before, weights(run))


@pytest.mark.numeric
def test_the_disagreement_term_makes_images_harder_for_the_student() -> None:
    found = []
    for weight in (1e-6, 30.0):
        weights = {"disagreement": weight, "divergence": "js"}
        inversion = {"fallback": None, "ei": {"steps": 8, "lr": 0.2, "weights": weights}}
        run = start_run(student_steps=8, inversion=inversion)
        assert run.step(1)["disagreement"] == 0.0  # the student has not been trained yet
        found.append(run.step(2)["disagreement"])
    assert found[1] > 1.2 * found[0] > 0.0


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_a_message_names_a_member_that_cannot_be_inverted() -> None:
    broken = member(1, ("dog", "elk", "fox"))
    broken.network.get_classifier().weight.fill_(math.nan)  # type: ignore[operator]
    progress = Recorder()
    members = Zoo.of([member(0, ("ant", "bee", "cat")), broken])
    learner = ZooStudent(**{**SMALL, "teachers": None}).fit(members, device="cpu", progress=progress)
    assert isinstance(learner, Student)
    assert all(bool(value.isfinite().all()) for value in learner.network.state_dict().values())
    assert progress.messages == [
        "member-001 is excluded: the inversion diverged (its cross-entropy or its images are not finite)"
    ]


def test_a_run_without_any_usable_member_fails_with_one_line() -> None:
    broken = member(1)
    broken.network.get_classifier().weight.fill_(math.nan)  # type: ignore[operator]
    with pytest.raises(RunError, match="no member is left to learn from"):
        ZooStudent(**SMALL).fit(Zoo.of([broken]), device="cpu")


@pytest.mark.numeric
def test_a_message_names_a_member_whose_classes_no_other_confirms() -> None:
    """Three members have the same classes; a fourth has them in another order."""
    equal_members = [member(0, ("a", "b", "c")) for _ in range(3)]
    members = Zoo.of([*equal_members, member(0, ("b", "c", "a"))])
    progress = Recorder()
    settings = {**SMALL, "iterations": 4, "teachers": None, "images_per_class": 10, "memory": 2000, "backbone": "conv4"}
    settings["inversion"] = {"ei": {"steps": 40, "lr": 0.1}}
    ZooStudent(**settings).fit(members, device="cpu", progress=progress)
    warnings = [line for line in progress.messages if " recognises " in line]
    assert [line.split(":")[0] for line in warnings] == ["member-003 is excluded"]
    assert "its labels may be in another order" in warnings[0]
