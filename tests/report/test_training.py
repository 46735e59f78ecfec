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
        **SETTINGS, warm_up=1, learner={"inner_steps": 2}, inversion=ENGINE, members_per_step=2, images_per_class=3
    ),
    "zoo_student": ZooStudent(**SETTINGS, **STUDENT, inversion=ENGINE),
    "average": Average(way=3, shot=1),
}


def told(name: str, out: Path) -> str:
    method: Method = METHODS[name]
    members = zoo()
    learner = method.fit(members, out=out, device="cpu")
    write_training(RunFolder(out), members, learner, method.config, seconds=61.7, command="dfml train 'a <zoo>'")
    return (out / PAGE).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_page_shows_what_the_run_holds(name: str, tmp_path: Path) -> None:
    html = told(name, tmp_path / "run")
    reader = Reader(html)
    text = " ".join(reader.text.split())
    assert f"{name} learned from 3 classifiers of 7 classes, without any image, in 62 seconds." in text
    assert "MB of weights" in text
    assert "dfml train 'a <zoo>'" in text
    assert f"{name}.way3" in text
    assert "in all61.7" in text
    for absent in ("Results", "95%", "Worth knowing"):
        assert absent not in text
    trained = name != "average"
    for heading in (f"Training of {name}", f"Inversion of {name}", "What the classifiers still knew"):
        assert (heading in text) == trained
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == trained
    assert ("other" in text) == trained


def test_seconds_are_told_apart_as_far_as_the_method_does() -> None:
    metrics = [{"iteration": 1, "seconds": 3.0, "asking_seconds": 1.0}, {"iteration": 2, "asking_seconds": 0.5}]
    assert seconds_by_part(metrics, 4.0) == {"asking": 1.5, "other": 2.5}
    assert seconds_by_part([], 4.0) == {"training": 4.0}


def test_members_that_were_set_aside_are_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    method, members = METHODS["zoo_student"], zoo()
    learner = method.fit(members, out=out, device="cpu")
    run = RunFolder(out)
    run.append_metrics({"iteration": 3, "notes": ["memory <b>1</b> is set aside: it collapsed"]})
    write_training(run, members, learner, method.config, seconds=1.0, command="dfml train")
    text = Reader((out / PAGE).read_text(encoding="utf-8")).text
    assert "meta-iteration 3: memory <b>1</b> is set aside: it collapsed" in text


def test_a_method_of_someone_else_has_its_losses_drawn() -> None:
    metrics = [{"iteration": 1, "odd_loss": 1.0, "seconds": 1.0}]
    ((heading, figure, caption),) = training_figures("odd", "odd", metrics)
    assert (heading, caption) == ("Training of odd", "The losses of the training; lower is better.")
    assert figure.axes[0].get_ylabel() == "odd loss"
    assert training_figures("odd", "odd", [{"iteration": 1, "seconds": 1.0}]) == []


def test_engines_that_are_not_chosen_are_left_out_of_the_settings() -> None:
    inversion = {"engine": "ei", "classes_per_visit": 20, "ei": {"lr": 0.1}, "five": {"lr": 1}, "cmi": {}}
    found = chosen_settings({"seed": 0, "inversion": inversion})
    assert found == {"seed": 0, "inversion": {"engine": "ei", "classes_per_visit": 20, "ei": {"lr": 0.1}}}


def test_a_run_without_images_recalls_none(tmp_path: Path) -> None:
    learner = METHODS["average"].fit(zoo(), out=tmp_path / "run", device="cpu")
    assert recalled_images(RunFolder(tmp_path / "run"), learner, range(7), 4) == []
