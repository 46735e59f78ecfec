"""Images that their own member does not recognise are stored without a label, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfml.errors import RunError
from dfml.images import to_float
from dfml.inversion.failures import FailureTracker
from dfml.methods.free import FREE
from dfml.methods.free.algorithm import FreeRun
from dfml.methods.zoo_student import ZooStudent, ZooStudentRun
from dfml.zoo import PretrainedClassifier, Zoo
from tests.factories import member

CPU = torch.device("cpu")
LABELS = ("ant", "bee", "cat", "dog")
INVERSION: dict[str, Any] = {
    "engine": "ei",
    "fallback": None,
    "ei": {"start": "noise", "steps": 3, "search_steps": 0, "lr": 0.1},
}


def students(**inversion: Any) -> ZooStudentRun:
    settings = {"iterations": 4, "images_per_class": 8, "student_steps": 1, "batch": 8, "mixed": 0, "backbone": "conv4"}
    method = ZooStudent(way=3, inversion={**INVERSION, **inversion}, **settings)
    run = method.start(Zoo.of([member(0, LABELS)]), CPU)
    assert isinstance(run, ZooStudentRun)
    run.step(1)
    return run


def zoo_run(members: list[PretrainedClassifier]) -> ZooStudentRun:
    settings = {"iterations": 4, "images_per_class": 8, "student_steps": 1, "batch": 8, "backbone": "conv4"}
    run = ZooStudent(way=3, inversion=INVERSION, **settings).start(Zoo.of(members), CPU)
    assert isinstance(run, ZooStudentRun)
    return run


def free(**inversion: Any) -> FreeRun:
    settings = {"iterations": 4, "warm_up": 1, "images_per_class": 8, "memory": 40, "alignment": "none"}
    method = FREE(way=3, query=2, inversion={**INVERSION, **inversion}, replay="none", **settings)
    run = method.start(Zoo.of([member(0, LABELS)]), CPU)
    assert isinstance(run, FreeRun)
    run.step(2)
    return run


def test_an_image_that_its_member_does_not_recognise_has_no_label() -> None:
    run = students()
    count = len(run.buffer)
    classes = run.buffer.classes[:count]
    predicted = run.zoo.classifier(0).predict_logits(to_float(run.buffer.images[:count])).argmax(dim=1)
    recovered_as = torch.arange(len(LABELS)).repeat_interleave(8)
    recognised = predicted == recovered_as
    assert 0 < int(recognised.sum()) < count  # else the test shows nothing
    own_class = run.classes_of_member[0][recovered_as]
    assert torch.equal(classes, torch.where(recognised, own_class, -1))
    assert torch.equal(students(confirmed_only=False).buffer.classes[:count], own_class)


def test_the_task_memory_holds_recognised_images_only() -> None:
    run = free()
    stored = run.tasks.memory.written
    assert 0 < int(stored.sum()) < 8 * len(LABELS)
    for class_index, output in zip(run.zoo.classes.of_member[0], range(len(LABELS)), strict=True):
        images = run.tasks.memory.newest(class_index, 40)
        if len(images):
            assert run.zoo.classifier(0).predict_logits(images).argmax(dim=1).tolist() == [output] * len(images)
    assert int(free(confirmed_only=False).tasks.memory.written.sum()) == 8 * len(LABELS)


def test_the_run_says_how_many_images_were_lost() -> None:
    run = students()
    ((confirmed, images),) = run.source.failures.confirmed.values()
    assert images == 8 * len(LABELS)
    assert run.source.failures.confirmation_metrics() == {"confirmed": confirmed / images}
    (line,) = run.source.failures.describe_unrecognised()
    assert line.endswith(f"have no label: member-000 {images - confirmed} of {images}")


def test_a_member_that_never_recognises_its_images_is_excluded() -> None:
    tracker = FailureTracker(patience=2)
    tracker.count_confirmed("good", 90, 100)
    tracker.count_confirmed("bad", 4, 100)
    tracker.count_confirmed("bad", 5, 100)  # 5% ends the row
    tracker.count_confirmed("bad", 1, 100)
    assert not tracker.excluded
    restored = FailureTracker(patience=2)
    restored.load_state_dict(tracker.state_dict())
    restored.count_confirmed("bad", 0, 100)
    assert list(restored.excluded) == ["bad"]
    assert "recognised only 10 of 400 images" in restored.excluded["bad"]
    assert restored.confirmed["good"] == (90, 100)


def test_a_member_that_is_at_chance_while_most_others_are_not_is_excluded() -> None:
    tracker = FailureTracker(patience=2)
    for _ in range(3):  # in the first round there is nothing to compare with
        tracker.count_confirmed("one class", 20, 100, classes=5)  # always the same of five
        tracker.count_confirmed("weak", 30, 100, classes=5)
        tracker.count_confirmed("few images", 2, 5, classes=5)
        tracker.count_confirmed("good", 95, 100, classes=5)
    assert list(tracker.excluded) == ["one class"]


def test_a_member_of_twenty_classes_that_predicts_one_of_them_is_excluded() -> None:
    tracker = FailureTracker(patience=2)
    tracker.count_confirmed("good", 95, 100, classes=5)
    for _ in range(2):
        tracker.count_confirmed("constant", 20, 400, classes=20)  # 5%
    assert list(tracker.excluded) == ["constant"]


def test_nobody_is_excluded_while_the_engine_itself_is_at_chance() -> None:
    tracker = FailureTracker(patience=2)
    for _ in range(5):
        for name in ("a", "b", "c"):
            tracker.count_confirmed(name, 20, 100, classes=5)
    assert not tracker.excluded
    alone = FailureTracker(patience=1)
    alone.count_confirmed("alone", 20, 100, classes=5)
    assert not alone.excluded


def test_a_member_with_constant_predictions_is_excluded_in_its_first_round_and_the_run_goes_on() -> None:
    constant = member(1, LABELS)
    head = constant.network.get_classifier()  # type: ignore[operator]
    head.weight.zero_()
    run = zoo_run([member(0, LABELS), constant, member(2, LABELS)])
    messages = []
    for iteration in range(1, 5):
        metrics = run.step(iteration)
        messages += run.source.pop_messages()
    (line,) = [line for line in messages if line.startswith("member-001 is excluded")]
    assert "predicts the same probabilities for all 32 images" in line
    assert set(run.source.failures.excluded) == {"member-001"}
    assert metrics["distillation_loss"] >= 0.0


def test_a_member_with_a_layer_of_running_variances_of_zero_is_neither_inverted_nor_asked() -> None:
    broken = member(1, LABELS)
    for layer in broken.network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var.zero_()  # type: ignore[operator]
    run = zoo_run([member(0, LABELS), broken, member(2, LABELS)])
    (line,) = run.pop_messages()
    assert line.startswith("member-001 is not inverted: all running variances of blocks.0.norm, blocks.1.norm")
    losses = [run.step(iteration).get("distillation_loss", 0.0) for iteration in range(1, 5)]
    assert all(torch.isfinite(torch.tensor(losses)))
    predictions = run.buffer.log_probabilities[: len(run.buffer)]
    assert bool(predictions[:, run.columns_of_member[1]].isnan().all())  # it was never asked
    assert not bool(predictions[:, run.columns_of_member[0]].isnan().any())


def test_a_member_with_some_dead_channels_is_used_like_any_other() -> None:
    pruned = member(1, LABELS)
    layer = next(each for each in pruned.network.modules() if isinstance(each, torch.nn.BatchNorm2d))
    assert isinstance(layer.running_var, torch.Tensor)
    layer.running_var[1:] = 0.0
    run = zoo_run([member(0, LABELS), pruned])
    assert run.source.broken == set()
    assert run.pop_messages() == []


def test_images_of_a_contradicted_member_lose_their_class_and_it_is_not_inverted_again() -> None:
    run = zoo_run([member(0, LABELS), member(1, LABELS), member(2, LABELS)])
    run.step(1)
    (inverted,) = run.source.failures.confirmed
    index = [run.zoo.name(each) for each in range(3)].index(inverted)
    assert int((run.buffer.classes[run.buffer.members == index] >= 0).sum()) > 0
    run.agreement.contradicted = lambda: {index: "the others contradict it"}  # type: ignore[method-assign]
    run.step(2)
    assert int((run.buffer.members == index).sum()) > 0
    assert bool((run.buffer.classes[run.buffer.members == index] == -1).all())
    assert index not in run.source.next_members(3, 3)
    assert f"{inverted} is excluded: the others contradict it" in run.pop_messages()


def test_free_takes_no_more_images_of_a_member_that_the_others_contradict() -> None:
    run = free()
    before = run.tasks.memory.written.clone()
    run.tasks.agreement.contradicted = lambda: {0: "the others contradict it"}  # type: ignore[method-assign]
    with pytest.raises(RunError, match="no member is left"):  # it is the only one
        run.step(3)
    assert torch.equal(run.tasks.memory.written, before)
    assert run.source.failures.excluded == {"member-000": "the others contradict it"}


def test_a_run_whose_only_member_recognises_nothing_ends_with_one_line() -> None:
    run = students(confirmed_only=True)
    labels = torch.zeros(10, dtype=torch.int64)
    scores = torch.tensor([0.0, 1.0, 0.0, 0.0]) * torch.linspace(1, 2, 10)[:, None]
    for _ in range(4):
        assert not bool(run.source.confirmed(0, labels, scores).any())
    with pytest.raises(RunError, match="no member is left"):
        run.source.confirmed(0, labels, scores)
