"""The page of a training shows what its run offers, for methods of this package and for others alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.methods.average import Average
from dfml.methods.base import Method
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.report.training import PAGE, LivePage, chosen_settings, seconds_by_part, training_figures, write_training
from dfml.training.loop import MetricDescription, TrainingRun
from dfml.training.run_folder import RunFolder
from dfml.zoo import Zoo
from tests.factories import zoo
from tests.report.outside_method import OutsideMethod, OutsideRun
from tests.report.test_html_page import Reader

SETTINGS = {"way": 3, "shot": 1, "query": 2, "iterations": 2, "checkpoint_every": 2, "snapshot_every": 2}
ENGINE = {
    "engine": "ei",
    "confirmed_only": False,
    "fallback": None,
    "ei": {"start": "dead_leaves", "steps": 2, "search_steps": 0},
}
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
    "outside": OutsideMethod(way=3),
    "average": Average(way=3, shot=1),
}
SHEET = "Recovered images"


def trained_page(method: Method, out: Path, *messages: str) -> tuple[str, Reader]:
    """Train, write the page, and return its text and its elements."""
    members = zoo()
    method.fit(members, out=out, device="cpu")
    folder = RunFolder(out)
    if messages:
        folder.append_metrics({"iteration": 3, "messages": list(messages)})
    write_training(
        folder, method.run_, method.name, method.config, members, seconds=61.7, command="dfml train 'a <zoo>'"
    )
    reader = Reader((out / PAGE).read_text(encoding="utf-8"))
    return " ".join(reader.text.split()), reader


@pytest.mark.parametrize("name", METHODS)
def test_page_shows_the_run(name: str, tmp_path: Path) -> None:
    method = METHODS[name]
    text, reader = trained_page(method, tmp_path / "run")
    trained = name != "average"
    summary = f"{name} was trained on 3 classifiers with 7 classes, without any image, in 62 seconds."
    assert (summary if trained else "average on 3 classifiers with 7 classes, without training.") in text
    assert " MB." in text
    assert "dfml train 'a <zoo>'" in text
    assert f"{name}.way3" in text
    assert "total61.7" in text
    for absent in ("Results", "95%", "Messages"):
        assert absent not in text
    assert (f"Training of {name}: " in text) == (SHEET in text) == trained
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == trained
    assert ("other" in text) == trained
    rows = RunFolder(tmp_path / "run").read_metrics()
    drawn = {key for row in rows for key, value in row.items() if value} & method.run_.describe_metrics().keys()
    assert bool(drawn) == trained
    for key in drawn:
        assert method.run_.describe_metrics()[key].caption in text


def test_a_method_from_outside_is_shown_with_its_own_metrics_captions_and_images(tmp_path: Path) -> None:
    text, reader = trained_page(OutsideMethod(way=3, brightness=0.25), tmp_path / "run")
    assert "Training of outside: entropy, agreement, ranking loss" in text
    assert "Entropy of the predictions, in nats. Each arrow is one shuffle. Members that agree." in text
    assert "shuffle (1 arrow)" in text
    assert "agreement (%)" in text
    for absent in ("absent", "Not in any row.", "hidden"):
        assert absent not in text
    assert "Images of nothing, all of one brightness. One row per class" in text
    assert "outside.brightness0.25" in text
    assert "sorting0.0" in text
    (sheet,) = [attributes for tag, attributes in reader.elements if tag == "img"]
    assert sheet["alt"] == "Recovered images, one row per class."


def live_page(method: Method, folder: RunFolder, members: Zoo) -> LivePage:
    return LivePage(lambda: method.run_, method.name, method.config, folder, members, "dfml train")


def test_the_page_of_a_run_that_trains_is_loaded_again_until_the_last_one(tmp_path: Path) -> None:
    method, members, folder = METHODS["purer"], zoo(), RunFolder(tmp_path / "run")
    method.fit(members, out=folder.path, device="cpu", on_iteration=live_page(method, folder, members))
    live = (folder.path / PAGE).read_text(encoding="utf-8")
    assert '<meta http-equiv="refresh" content="60">' in live
    assert "1 of 2 meta-iterations" in live
    assert SHEET in live
    write_training(folder, method.run_, "purer", method.config, members, seconds=1.0, command="dfml train")
    assert "http-equiv" not in (folder.path / PAGE).read_text(encoding="utf-8")


def test_the_page_is_not_written_again_within_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, members, folder = METHODS["purer"], zoo(), RunFolder(tmp_path / "run")
    method.fit(members, out=folder.path, device="cpu")
    clock, times = {"now": 0.0}, []
    monkeypatch.setattr("dfml.report.training.time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("dfml.report.training.write_training", lambda *_, **__: times.append(clock["now"]))
    page = live_page(method, folder, members)
    for clock["now"] in (1000.0, 1030.0, 1059.0, 1061.0, 1062.0, 1200.0):
        page(1, {})
    assert times == [1000.0, 1061.0, 1200.0]


def test_a_run_without_images_has_no_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = OutsideMethod(way=3)
    members = zoo()
    method.fit(members, out=tmp_path / "run", device="cpu")
    monkeypatch.setattr(OutsideRun, "images", TrainingRun.images)
    folder = RunFolder(tmp_path / "run")
    write_training(folder, method.run_, "outside", method.config, members, seconds=1.0, command="dfml train")
    assert SHEET not in Reader((folder.path / PAGE).read_text(encoding="utf-8")).text


def test_messages_of_the_run_are_on_the_page(tmp_path: Path) -> None:
    text, _ = trained_page(METHODS["outside"], tmp_path / "run", "memory <b>1</b> is excluded: it collapsed")
    assert "Meta-iteration 3: memory <b>1</b> is excluded: it collapsed" in text


def test_seconds_are_split_by_the_metrics_that_measure_them() -> None:
    metrics = [{"iteration": 1, "seconds": 3.0, "query_seconds": 1.0}, {"iteration": 2, "query_seconds": 0.5}]
    assert seconds_by_part(metrics, 4.0) == {"query": 1.5, "other": 2.5}
    assert seconds_by_part([], 4.0) == {"training": 4.0}
    assert seconds_by_part([{"iteration": 1, "other_seconds": 2.0}], 3.0) == {"other": 3.0}


def test_captions_describe_only_what_is_drawn() -> None:
    descriptions = {
        "outer_loss": MetricDescription("outer loss", "On episodes."),
        "distillation_loss": MetricDescription("distillation loss", "On members."),
    }
    (alone,) = training_figures("FREE", [{"iteration": 1, "distillation_loss": 1.0}], descriptions)
    (both,) = training_figures(
        "FREE", [{"iteration": 1, "distillation_loss": 1.0, "outer_loss": 2.0}], descriptions, prefix="free"
    )
    assert (alone.title, alone.caption) == ("Training of FREE: distillation loss", "On members.")
    assert (both.title, both.caption) == ("Training of FREE: outer loss, distillation loss", "On episodes. On members.")
    assert 'id="free-0-' in both.svg
    (undescribed,) = training_figures("odd", [{"iteration": 1, "odd_loss": 1.0}], {})
    assert undescribed.caption == "Thin line: every value. Thick line: running mean."


def test_sections_of_unused_engines_are_left_out_of_the_settings() -> None:
    inversion = {"engine": "ei", "classes_per_round": 20, "ei": {"lr": 0.1}, "five": {"lr": 1}, "cmi": {}}
    settings = chosen_settings({"seed": 0, "inversion": inversion})
    assert settings == {"seed": 0, "inversion": {"engine": "ei", "classes_per_round": 20, "ei": {"lr": 0.1}}}
    for unrelated in ({"engine": {"five": 5}}, {"engine": "steam", "five": 5}, {"engine": ["ei"], "cmi": {}}):
        assert chosen_settings(unrelated) == unrelated
