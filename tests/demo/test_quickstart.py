"""The quickstart: with small settings in process, and in full as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dfml.cli import app
from dfml.data.support import read_image
from dfml.demo.explanation import explain
from dfml.demo.page import (
    differences,
    predictions_table,
    quickstart_page,
    quickstart_values,
    render_sheet,
    save_task,
    write_quickstart,
)
from dfml.demo.result import QuickstartResult
from dfml.demo.run import run_quickstart
from dfml.demo.settings import QuickstartSettings
from dfml.evaluation.protocol import Evaluation
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.registry import InversionConfig
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.training.checkpoint import load_checkpoint
from dfml.zoo import Zoo

TRAINED = ["zoo_student", "purer", "free"]
FOLDERS = ["learner", "purer", "free"]
BASELINES = ["random_init", "random_embedding", "average", "best_member", "zoo_embedding"]
METHODS = [*TRAINED, *BASELINES]
SHEETS = tuple(f"contact_sheet_{name}.png" for name in TRAINED)
ARTEFACTS = (
    "report.html",
    "results.json",
    *SHEETS,
    "learning_curve.svg",
    *(f"{folder}/metrics.jsonl" for folder in FOLDERS),
)

Finished = tuple[QuickstartResult, Path, list[str]]
"""A result, its folder, and the stages in the order of their reports."""


def small() -> QuickstartSettings:
    """Settings that are too small to learn anything."""
    default = QuickstartSettings()
    common = {"way": 2, "shot": 2, "query": 2, "iterations": 3, "snapshot_every": 2, "checkpoint_every": 3}
    warm_up = common | {"warm_up": 1}
    student = {"members_per_step": 2, "images_per_class": 2, "mixed": 1, "memory": 32, "student_steps": 2, "batch": 8}
    quick = InversionConfig(engine="ei", ei=PixelInversionConfig(start="dead_leaves", steps=2))
    free = {"members_per_step": 2, "images_per_class": 4, "memory": 6, "replay_steps": 1, "replay_tasks": 1}
    return default.model_copy(
        update={
            "image_size": 16,
            "train_images": 8,
            "test_images": 6,
            "members": 2,
            "recipe": default.recipe.override(epochs=1),
            "zoo_student": default.zoo_student.model_copy(update=common | student | {"inversion": quick}),
            "best_member": default.best_member.model_copy(update={"iterations": 2, "inversion": quick}),
            "purer": default.purer.model_copy(update=warm_up),
            "free": default.free.model_copy(update=warm_up | free),
            "query": 2,
            "episodes": 4,
            "curve_episodes": 2,
            "shown": 3,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("quickstart")
    stages: list[str] = []
    result = run_quickstart(out, seed=3, settings=small(), report=lambda stage, seconds, outcome: stages.append(stage))
    write_quickstart(result, out, "dfml quickstart --out <b>here</b>")
    return result, out, stages


def test_result_is_complete(finished: Finished) -> None:
    result, out, stages = finished
    assert [each.name for each in result.evaluations] == METHODS
    assert stages == list(result.stages)
    assert [each.name for each in result.trained] == list(result.trainings) == TRAINED
    for evaluation, training in zip(result.trained, result.trainings.values(), strict=True):
        assert list(training.curve) == [0, 2, 3]
        assert training.curve[3] is evaluation
        assert [row["iteration"] for row in training.metrics] == [1, 2, 3]
        assert [[each.label for each in classes] for classes in training.recovered] == [
            list(member.labels) for member in result.members
        ]
    stored = result.stored_bytes
    assert stored["zoo_embedding"] > stored["zoo_student"] > stored["purer"] == stored["free"]
    assert stored["zoo_embedding"] == 2 * stored["best_member"]
    assert len(Zoo.open(out / "zoo")) == 2


def test_a_curve_in_seconds_has_the_points_of_its_meta_iterations(finished: Finished) -> None:
    for training in finished[0].trainings.values():
        seconds = [sum(row["seconds"] for row in training.metrics[:iteration]) for iteration in (0, 2, 3)]
        assert list(training.curve_in_seconds()) == pytest.approx(seconds)
        assert list(training.curve_in_seconds().values()) == list(training.curve.values())


@pytest.mark.parametrize("method", TRAINED)
def test_recovered_images_are_valid(finished: Finished, method: str) -> None:
    for classes in finished[0].trainings[method].recovered:
        for each in classes:
            assert each.recovered.shape == (3, 3, 16, 16)
            assert each.real.shape == (3, 3, 16, 16)
            assert each.recovered.std() > 0
            assert each.recovered.min() >= 0
            assert each.recovered.max() <= 1


def test_images_of_free_are_the_newest_of_its_task_memory(finished: Finished) -> None:
    result, out, _ = finished
    tensors = load_checkpoint(out / "free" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # Two rounds after the warm-up with four images each, in a ring of six slots: the newest image is in slot 1.
    assert tensors["memory.written"].tolist() == [8] * len(tensors["memory.written"])
    names = Zoo.open(out / "zoo").classes.names
    for classes in result.trainings["free"].recovered:
        for each in classes:
            stored = tensors["memory.images"][names.index(each.label)]
            assert torch.equal((each.recovered * 255).round().to(torch.uint8), stored[[1, 0, 5]])


def test_images_of_the_student_are_the_newest_of_its_buffer_without_mixed_images(finished: Finished) -> None:
    result, out, _ = finished
    tensors = load_checkpoint(out / "learner" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # 8 recovered, then twice 8 recovered and 8 mixed images, in a ring of 32 slots: the newest 8 are in slots 0 to 7.
    assert tensors["buffer.written"] == 40
    for classes in result.trainings["zoo_student"].recovered:
        for each in classes:
            same = (each.recovered * 255).round().to(torch.uint8)[:, None] == tensors["buffer.images"]
            slots = [int(slot) for slot in same.flatten(2).all(dim=2).int().argmax(dim=1)]
            assert [slot // 8 for slot in slots] == [3, 3, 1]
            assert same[range(3), slots].all()
    assert len(result.trainings["zoo_student"].recovered) == 2


def test_a_class_without_recovered_images_leaves_a_gap(finished: Finished) -> None:
    result = finished[0]
    free = result.trainings["free"]
    nothing = replace(free.recovered[0][0], recovered=torch.zeros(0, 3, 16, 16))
    less = ((nothing, *free.recovered[0][1:]), *free.recovered[1:])
    bare = replace(result, trainings={**result.trainings, "free": replace(free, recovered=less)})
    sheets = {name: render_sheet(bare, name) for name in TRAINED}
    assert sheets["free"].size == render_sheet(result, "free").size
    incomplete = ["kept none of this class" in sheet.caption for sheet in quickstart_page(bare, sheets, "").sheets]
    assert incomplete == [False, False, True]


def test_new_task_is_reproduced_by_the_saved_classifier_and_images(finished: Finished, tmp_path: Path) -> None:
    result, out, _ = finished
    task = result.task
    again = FewShotClassifier.from_pretrained(out / "classifier")
    assert again.labels == task.classes
    torch.testing.assert_close(again.predict_proba(task.query_images), task.probabilities)
    save_task(task, tmp_path)
    assert sorted(path.name for path in (tmp_path / "support").iterdir()) == sorted(task.classes)
    pixels = read_image(tmp_path / "query" / f"{task.classes[0]}-1.png", 16)
    torch.testing.assert_close(pixels, task.query_images[1])


def test_artefacts_are_valid(finished: Finished) -> None:
    result, out, _ = finished
    for name in SHEETS:
        with Image.open(out / name) as image:
            image.verify()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "dfml quickstart --out &lt;b&gt;here&lt;/b&gt;" in page
    assert all(name in page for name in METHODS)
    assert [MetaLearner.from_pretrained(out / folder).name for folder in FOLDERS] == TRAINED
    assert "zoo_student was adapted to the support images of 2 letters" in page
    values = json.loads(json.dumps(quickstart_values(result)))
    assert values["seed"] == 3
    for each in result.trained:
        assert values["methods"][each.name]["accuracy"] == each.accuracy
        assert values["methods"][each.name]["seconds"] == result.stages[f"train {each.name} without data"]
        assert values["curves"][each.name]["3"]["accuracy"] == each.accuracy
    assert values["stages"].keys() == result.stages.keys()


def test_predictions_are_marked_right_or_wrong(finished: Finished) -> None:
    task = finished[0].task
    table = predictions_table(task, 1)
    assert [row[3] for row in table.rows] == list(task.classes)
    for row, probabilities in zip(table.rows, task.probabilities[:: len(task.query_labels) // 2], strict=True):
        assert row[1] == task.classes[int(probabilities.argmax())]
        assert row[4] == ("right" if row[1] == row[3] else "wrong")


def with_accuracies(result: QuickstartResult, **means: float) -> QuickstartResult:
    """The same result with other accuracies; 0.5 where none is given."""

    def changed(each: Evaluation) -> Evaluation:
        mean = means.get(each.name, 0.5)
        return replace(each, accuracies=(mean - 0.01, mean + 0.01, mean - 0.01, mean + 0.01))

    return replace(result, evaluations=tuple(changed(each) for each in result.evaluations))


def test_every_trained_method_is_compared_with_all_others_once(finished: Finished) -> None:
    pairs = [(each.first, each.second) for each in differences(finished[0])]
    assert pairs == [(one, other) for index, one in enumerate(TRAINED) for other in METHODS[index + 1 :]]


def test_explanation_follows_good_accuracies(finished: Finished) -> None:
    accuracies = {"zoo_student": 0.85, "purer": 0.8, "free": 0.6, "random_init": 0.3, "zoo_embedding": 0.9}
    words = explain(with_accuracies(finished[0], **accuracies))
    good = " ".join(words)
    assert "zoo_student is 55.0 ± 0.0 points above random_init" in good
    assert "PURER is 50.0 ± 0.0 points above random_init" in good
    assert "FREE is 30.0 ± 0.0 points above random_init" in good
    assert "zoo_student is 5.0 ± 0.0 points above PURER and 25.0 ± 0.0 points above FREE on the same tasks" in good
    assert "FREE is 20.0 ± 0.0 points below PURER" in good
    assert "35.0 ± 0.0 points above it, PURER is 30.0 ± 0.0 points above it and FREE is 10.0" in good
    assert "It is 5.0 ± 0.0 points above zoo_student, the best of the methods that keep one network" in good
    assert good.count("Training on the zoo helped") == 3
    assert "Here keeping all classifiers is better" in good
    # Only the order of the two published methods, which need hours, has this warning.
    (warning,) = (paragraph for paragraph in words if "says nothing about them" in paragraph)
    assert "student" not in warning


def test_explanation_follows_bad_accuracies(finished: Finished) -> None:
    accuracies = {"zoo_student": 0.1, "purer": 0.3, "free": 0.6, "random_init": 0.4, "zoo_embedding": 0.2}
    bad = " ".join(explain(with_accuracies(finished[0], **accuracies)))
    assert "PURER is 10.0 ± 0.0 points below random_init" in bad
    assert "zoo_student is 20.0 ± 0.0 points below PURER and 50.0 ± 0.0 points below FREE" in bad
    assert "40.0 ± 0.0 points below FREE, the best of the methods that keep one network" in bad
    assert "Here one network is better than all classifiers together" in bad
    assert bad.count("No benefit of training on the zoo was measured") == 2
    assert bad.count("Training on the zoo helped") == 1
    assert "keeping all classifiers" not in bad


def test_explanation_names_a_baseline_that_is_the_best_single_network(finished: Finished) -> None:
    words = explain(with_accuracies(finished[0], best_member=0.9, zoo_embedding=0.9))
    assert "zoo_student is 40.0 ± 0.0 points below it" in words[-2]
    assert "0.0 ± 0.0 points above best_member, the best of" in words[-1]
    assert "with 2 times the weights" in words[-1]
    assert "within its confidence interval" in words[-1]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.slow
def test_all_methods_of_the_quickstart_in_full_beat_an_untrained_network(tmp_path: Path) -> None:
    out, json_file = tmp_path / "run", tmp_path / "results.json"
    command = [sys.executable, "-m", "dfml", "quickstart", "--out", str(out), "--json", str(json_file)]
    offline = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(json_file.read_text(encoding="utf-8"))
    assert json.loads((out / "results.json").read_text(encoding="utf-8")).keys() == values.keys()
    assert list(values["methods"]) == METHODS
    untrained = values["methods"]["random_init"]
    for name in TRAINED:
        trained = values["methods"][name]
        assert trained["accuracy"] - trained["ci"] > untrained["accuracy"] + untrained["ci"]
        assert len(values["curves"][name]) > 3
    assert values["methods"]["zoo_student"]["accuracy"] > max(
        values["methods"][name]["accuracy"] for name in TRAINED[1:]
    )
    assert values["protocol"] == "strict"
    for name in ARTEFACTS:
        assert (out / name).stat().st_size > 0
    # With the colon, which base64 of the embedded images cannot contain.
    page = (out / "report.html").read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    assert not {link for link in ("http:", "https:") if link in page}
    again = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    for name in METHODS:
        assert name in done.stdout
