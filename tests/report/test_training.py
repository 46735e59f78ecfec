"""The page that a training leaves shows what its run holds, and nothing that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.evaluation.recalled import recalled_images
from dfml.methods.average import Average
from dfml.methods.base import Method
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.report.training import PAGE, chosen_settings, seconds_by_part, training_figures, write_training
from dfml.training.folder import RunFolder
from tests.factories import zoo
from tests.report.test_page import Reader

SETTINGS = {"way": 3, "shot": 1, "query": 2, "iterations": 2, "checkpoint_every": 2, "snapshot_every": 2}
ENGINE = {"engine": "ei", "ei": {"start": "leaves", "steps": 2}}
STUDENT = {"members_per_step": 2, "images_per_class": 2, "memory": 32, "student_steps": 2, "batch": 8}
METHODS = {
    "purer": PURER(**SETTINGS, warm_up=1, learner={"inner_steps": 2}),
    "free": FREE(
        **SETTINGS,
        warm_up=1,
        learner={"inner_steps": 2},
        inversion=ENGINE,
        members_per_step=2,
        images_per_class=3,
        replay="fixed",
        replay_steps=1,
    ),
    "zoo_student": ZooStudent(**SETTINGS, **STUDENT, inversion=ENGINE),
    "average": Average(way=3, shot=1),
}


def told(name: str, out: Path) -> str:
    method: Method = METHODS[name]
    members = zoo()
    learner = method.fit(members, out=out, device="cpu")
    write_training(RunFolder(out), name, method.config, members, learner, seconds=61.7, command="dfml train 'a <zoo>'")
    return (out / PAGE).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_page_shows_what_the_run_holds(name: str, tmp_path: Path) -> None:
    html = told(name, tmp_path / "run")
    reader = Reader(html)
    text = " ".join(reader.text.split())
    trained = name != "average"
    learned = f"{name} learned from 3 classifiers of 7 classes, without any image, in 62 seconds."
    assert (learned if trained else "average on 3 classifiers of 7 classes: nothing was trained.") in text
    assert "MB of weights" in text
    assert "dfml train 'a <zoo>'" in text
    assert f"{name}.way3" in text
    assert "in all61.7" in text
    for absent in ("Results", "95%", "Worth knowing"):
        assert absent not in text
    for heading in (f"Training of {name}", f"Inversion of {name}", "What the classifiers still knew"):
        assert (heading in text) == trained
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == trained
    assert ("other" in text) == trained


def test_seconds_are_told_apart_as_far_as_the_method_does() -> None:
    metrics = [{"iteration": 1, "seconds": 3.0, "asking_seconds": 1.0}, {"iteration": 2, "asking_seconds": 0.5}]
    assert seconds_by_part(metrics, 4.0) == {"asking": 1.5, "other": 2.5}
    assert seconds_by_part([], 4.0) == {"training": 4.0}
    assert seconds_by_part([{"iteration": 1, "other_seconds": 2.0}], 3.0) == {"other": 3.0}


def test_members_that_were_set_aside_are_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    method, members = METHODS["zoo_student"], zoo()
    learner = method.fit(members, out=out, device="cpu")
    run = RunFolder(out)
    run.append_metrics({"iteration": 3, "notes": ["memory <b>1</b> is set aside: it collapsed"]})
    write_training(run, "zoo_student", method.config, members, learner, seconds=1.0, command="dfml train")
    text = Reader((out / PAGE).read_text(encoding="utf-8")).text
    assert "meta-iteration 3: memory <b>1</b> is set aside: it collapsed" in text


def test_a_method_of_someone_else_has_its_losses_drawn() -> None:
    metrics = [{"iteration": 1, "odd_loss": 1.0, "seconds": 1.0}]
    ((heading, figure, caption),) = training_figures("odd", "odd", metrics)
    assert (heading, caption) == ("Training of odd", "In the method's own terms.")
    assert figure.axes[0].get_ylabel() == "odd loss"
    assert training_figures("odd", "odd", [{"iteration": 1, "seconds": 1.0}]) == []


@pytest.mark.parametrize("name", ["faster_purer", "purer"])
def test_a_learner_of_another_method_shows_no_images_that_are_not_there(name: str, tmp_path: Path) -> None:
    """Learners carry names of their own: only the method's says what a checkpoint holds, and not always."""
    out, method, members = tmp_path / "run", METHODS["zoo_student"], zoo()
    learner = method.fit(members, out=out, device="cpu")
    learner.name = "purer"
    write_training(RunFolder(out), name, method.config, members, learner, seconds=1.0, command="dfml train")
    text = Reader((out / PAGE).read_text(encoding="utf-8")).text
    assert f"{name}: a few-shot learner" in text
    assert "What the classifiers still knew" not in text


def test_captions_speak_of_what_is_drawn() -> None:
    ((_, _, alone),) = training_figures("free", "FREE", [{"iteration": 1, "distillation_loss": 1.0}])
    ((_, _, both),) = training_figures("free", "FREE", [{"iteration": 1, "distillation_loss": 1.0, "outer_loss": 2.0}])
    assert alone == "How far it still is from the classifiers' answers."
    assert both == f"The learner's loss on episodes of recovered images. {alone}"


def test_engines_that_are_not_chosen_are_left_out_of_the_settings() -> None:
    inversion = {"engine": "ei", "classes_per_visit": 20, "ei": {"lr": 0.1}, "five": {"lr": 1}, "cmi": {}}
    found = chosen_settings({"seed": 0, "inversion": inversion})
    assert found == {"seed": 0, "inversion": {"engine": "ei", "classes_per_visit": 20, "ei": {"lr": 0.1}}}
    for theirs in ({"engine": {"five": 5}}, {"engine": "steam", "five": 5}, {"engine": ["ei"]}):
        assert chosen_settings(theirs) == theirs


def test_a_run_without_images_recalls_none(tmp_path: Path) -> None:
    learner = METHODS["average"].fit(zoo(), out=tmp_path / "run", device="cpu")
    assert recalled_images(RunFolder(tmp_path / "run"), "average", learner) is None
    assert recalled_images(RunFolder(tmp_path), "purer", learner) is None
