"""The quickstart tells its story: quickly in small, and in full as a user runs it."""

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
from dfml.data import read_image
from dfml.evaluation.protocol import Evaluation
from dfml.evaluation.quickstart import run_quickstart
from dfml.evaluation.story import QuickstartSettings, Story
from dfml.inversion.engines import InversionConfig
from dfml.inversion.pixels import PixelInversionConfig
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.report.quickstart import (
    differences,
    draw_sheet,
    explain,
    predictions_table,
    save_task,
    story_page,
    story_values,
    write_story,
)
from dfml.training.checkpoint import load_checkpoint
from dfml.zoo import Zoo

TRAINED = ["zoo_student", "purer", "free"]
FOLDERS = ["learner", "purer", "free"]
NEIGHBOURS = ["random_init", "random_embedding", "average", "best_member", "zoo_embedding"]
METHODS = [*TRAINED, *NEIGHBOURS]
SHEETS = tuple(f"contact_sheet_{name}.png" for name in TRAINED)
ARTEFACTS = (
    "report.html",
    "results.json",
    *SHEETS,
    "learning_curve.svg",
    *(f"{folder}/metrics.jsonl" for folder in FOLDERS),
)


def small() -> QuickstartSettings:
    """Too little of everything to learn anything."""
    usual = QuickstartSettings()
    common = {"way": 2, "shot": 2, "query": 2, "iterations": 3, "snapshot_every": 2, "checkpoint_every": 3}
    way = common | {"warm_up": 1}
    student = {"members_per_step": 2, "images_per_class": 2, "mixed": 1, "memory": 32, "student_steps": 2, "batch": 8}
    quick = InversionConfig(engine="ei", ei=PixelInversionConfig(start="leaves", steps=2))
    free = {"members_per_step": 2, "images_per_class": 4, "memory": 6, "replay_steps": 1, "replay_tasks": 1}
    return usual.model_copy(
        update={
            "image_size": 16,
            "train_images": 8,
            "test_images": 6,
            "members": 2,
            "recipe": usual.recipe.override(epochs=1),
            "zoo_student": usual.zoo_student.model_copy(update=common | student | {"inversion": quick}),
            "best_member": usual.best_member.model_copy(update={"iterations": 2, "inversion": quick}),
            "purer": usual.purer.model_copy(update=way),
            "free": usual.free.model_copy(update=way | free),
            "query": 2,
            "episodes": 4,
            "curve_episodes": 2,
            "shown": 3,
        }
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path, list[str]]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("quickstart")
    stages: list[str] = []
    story = run_quickstart(out, seed=3, settings=small(), report=lambda stage, seconds, outcome: stages.append(stage))
    write_story(story, out, "dfml quickstart --out <b>here</b>")
    return story, out, stages


def test_story_has_all_its_parts(told: tuple[Story, Path, list[str]]) -> None:
    story, out, stages = told
    assert [each.name for each in story.evaluations] == METHODS
    assert stages == list(story.stages)
    assert [each.name for each in story.learned] == list(story.trainings) == TRAINED
    for evaluation, training in zip(story.learned, story.trainings.values(), strict=True):
        assert list(training.curve) == [0, 2, 3]
        assert training.curve[3] is evaluation
        assert [row["iteration"] for row in training.metrics] == [1, 2, 3]
        assert [[each.label for each in classes] for classes in training.recovered] == [
            list(member.labels) for member in story.members
        ]
    stored = story.stored_bytes
    assert stored["zoo_embedding"] > stored["zoo_student"] > stored["purer"] == stored["free"]
    assert stored["zoo_embedding"] == 2 * stored["best_member"]
    assert len(Zoo.open(out / "zoo")) == 2


def test_a_curve_in_seconds_has_the_places_of_its_meta_iterations(told: tuple[Story, Path, list[str]]) -> None:
    for training in told[0].trainings.values():
        places = [sum(row["seconds"] for row in training.metrics[:iteration]) for iteration in (0, 2, 3)]
        assert list(training.curve_in_seconds()) == pytest.approx(places)
        assert list(training.curve_in_seconds().values()) == list(training.curve.values())


@pytest.mark.parametrize("method", TRAINED)
def test_recovered_images_can_be_looked_at(told: tuple[Story, Path, list[str]], method: str) -> None:
    for classes in told[0].trainings[method].recovered:
        for each in classes:
            assert each.recovered.shape == (3, 3, 16, 16)
            assert each.real.shape == (3, 3, 16, 16)
            assert each.recovered.std() > 0
            assert each.recovered.min() >= 0
            assert each.recovered.max() <= 1


def test_images_of_free_are_the_newest_of_its_memory(told: tuple[Story, Path, list[str]]) -> None:
    story, out, _ = told
    tensors = load_checkpoint(out / "free" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # Two visits after the warm-up with four images each, and room for six: the last is in slot 1, the first of it in 4.
    assert tensors["memory.written"].tolist() == [8] * len(tensors["memory.written"])
    names = Zoo.open(out / "zoo").classes.names
    for classes in story.trainings["free"].recovered:
        for each in classes:
            held = tensors["memory.images"][names.index(each.label)]
            assert torch.equal((each.recovered * 255).round().to(torch.uint8), held[[1, 0, 5]])


def test_images_of_the_student_are_the_newest_of_its_pool_without_the_mixed_ones(
    told: tuple[Story, Path, list[str]],
) -> None:
    story, out, _ = told
    tensors = load_checkpoint(out / "learner" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # Eight recovered, then twice eight recovered and eight mixed, and room for 32: the last eight are in slots 0 to 7.
    assert tensors["pool.written"] == 40
    for classes in story.trainings["zoo_student"].recovered:
        for each in classes:
            same = (each.recovered * 255).round().to(torch.uint8)[:, None] == tensors["pool.images"]
            slots = [int(found) for found in same.flatten(2).all(dim=2).int().argmax(dim=1)]
            assert [slot // 8 for slot in slots] == [3, 3, 1]
            assert same[range(3), slots].all()
    assert len(story.trainings["zoo_student"].recovered) == 2


def test_a_class_that_was_never_recovered_leaves_its_places_blank(told: tuple[Story, Path, list[str]]) -> None:
    story = told[0]
    free = story.trainings["free"]
    nothing = replace(free.recovered[0][0], recovered=torch.zeros(0, 3, 16, 16))
    less = ((nothing, *free.recovered[0][1:]), *free.recovered[1:])
    bare = replace(story, trainings={**story.trainings, "free": replace(free, recovered=less)})
    sheets = {name: draw_sheet(bare, name) for name in TRAINED}
    assert sheets["free"].size == draw_sheet(story, "free").size
    told_of = ["none were kept" in sheet.caption for sheet in story_page(bare, sheets, "").sheets]
    assert told_of == [False, False, True]


def test_new_task_is_the_saved_classifiers_and_can_be_repeated_from_its_files(
    told: tuple[Story, Path, list[str]], tmp_path: Path
) -> None:
    story, out, _ = told
    task = story.task
    again = FewShotClassifier.from_pretrained(out / "classifier")
    assert again.labels == task.classes
    torch.testing.assert_close(again.predict_proba(task.query_images), task.probabilities)
    save_task(task, tmp_path)
    assert sorted(path.name for path in (tmp_path / "support").iterdir()) == sorted(task.classes)
    pixels = read_image(tmp_path / "query" / f"{task.classes[0]}-1.png", 16)
    torch.testing.assert_close(pixels, task.query_images[1])


def test_artefacts_are_valid(told: tuple[Story, Path, list[str]]) -> None:
    story, out, _ = told
    for name in SHEETS:
        with Image.open(out / name) as image:
            image.verify()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "dfml quickstart --out &lt;b&gt;here&lt;/b&gt;" in page
    assert all(name in page for name in METHODS)
    assert [MetaLearner.from_pretrained(out / folder).name for folder in FOLDERS] == TRAINED
    assert "letters zoo_student made a classifier" in page
    values = json.loads(json.dumps(story_values(story)))
    assert values["seed"] == 3
    for each in story.learned:
        assert values["methods"][each.name]["accuracy"] == each.accuracy
        assert values["methods"][each.name]["seconds"] == story.stages[f"train {each.name} without data"]
        assert values["curves"][each.name]["3"]["accuracy"] == each.accuracy
    assert values["stages"].keys() == story.stages.keys()


def test_predictions_stand_beside_the_truth(told: tuple[Story, Path, list[str]]) -> None:
    task = told[0].task
    table = predictions_table(task, 1)
    assert [row[3] for row in table.rows] == list(task.classes)
    for row, probabilities in zip(table.rows, task.probabilities[:: len(task.query_labels) // 2], strict=True):
        assert row[1] == task.classes[int(probabilities.argmax())]
        assert row[4] == ("right" if row[1] == row[3] else "wrong")


def with_accuracies(story: Story, **means: float) -> Story:
    """The same story with other endings."""

    def ending(each: Evaluation) -> Evaluation:
        mean = means.get(each.name, 0.5)
        return replace(each, accuracies=(mean - 0.01, mean + 0.01, mean - 0.01, mean + 0.01))

    return replace(story, evaluations=tuple(ending(each) for each in story.evaluations))


def test_every_trained_method_is_compared_with_all_others_once(told: tuple[Story, Path, list[str]]) -> None:
    pairs = [(each.first, each.second) for each in differences(told[0])]
    assert pairs == [(one, other) for place, one in enumerate(TRAINED) for other in METHODS[place + 1 :]]


def test_words_follow_good_figures(told: tuple[Story, Path, list[str]]) -> None:
    figures = {"zoo_student": 0.85, "purer": 0.8, "free": 0.6, "random_init": 0.3, "zoo_embedding": 0.9}
    words = explain(with_accuracies(told[0], **figures))
    good = " ".join(words)
    assert "zoo_student is 55.0 ± 0.0 points above random_init" in good
    assert "PURER is 50.0 ± 0.0 points above random_init" in good
    assert "FREE is 30.0 ± 0.0 points above random_init" in good
    assert "zoo_student is 5.0 ± 0.0 points above PURER and 25.0 ± 0.0 points above FREE on the same tasks" in good
    assert "FREE is 20.0 ± 0.0 points below PURER" in good
    assert "35.0 ± 0.0 points above it, PURER is 30.0 ± 0.0 points above it and FREE is 10.0" in good
    assert "It is 5.0 ± 0.0 points above zoo_student, the best of those that keep one network" in good
    assert good.count("That much was learned") == 3
    assert "better served" in good
    # What is said of the papers' methods after minutes is not said of the student.
    (careful,) = (each for each in words if "says nothing of full runs" in each)
    assert "student" not in careful


def test_words_follow_bad_figures(told: tuple[Story, Path, list[str]]) -> None:
    figures = {"zoo_student": 0.1, "purer": 0.3, "free": 0.6, "random_init": 0.4, "zoo_embedding": 0.2}
    bad = " ".join(explain(with_accuracies(told[0], **figures)))
    assert "PURER is 10.0 ± 0.0 points below random_init" in bad
    assert "zoo_student is 20.0 ± 0.0 points below PURER and 50.0 ± 0.0 points below FREE" in bad
    assert "40.0 ± 0.0 points below FREE, the best of those that keep one network" in bad
    assert "One network serves better" in bad
    assert bad.count("Nothing that could be measured was learned") == 2
    assert bad.count("That much was learned") == 1
    assert "better served" not in bad


def test_words_name_a_neighbour_that_is_the_best_single_network(told: tuple[Story, Path, list[str]]) -> None:
    words = explain(with_accuracies(told[0], best_member=0.9, zoo_embedding=0.9))
    assert "zoo_student is 40.0 ± 0.0 points below it" in words[-2]
    assert "0.0 ± 0.0 points above best_member, the best" in words[-1]
    assert "with 2 times the weights" in words[-1]
    assert "no difference that could be measured" in words[-1]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.slow
@pytest.mark.numeric
def test_all_methods_of_the_quickstart_in_full_beat_an_untrained_network(tmp_path: Path) -> None:
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    command = [sys.executable, "-m", "dfml", "quickstart", "--out", str(out), "--json", str(figures)]
    offline = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(figures.read_text(encoding="utf-8"))
    assert json.loads((out / "results.json").read_text(encoding="utf-8")).keys() == values.keys()
    assert list(values["methods"]) == METHODS
    untrained = values["methods"]["random_init"]
    for name in TRAINED:
        learned = values["methods"][name]
        assert learned["accuracy"] - learned["ci"] > untrained["accuracy"] + untrained["ci"]
        assert len(values["curves"][name]) > 3
    assert values["methods"]["zoo_student"]["accuracy"] > max(
        values["methods"][name]["accuracy"] for name in TRAINED[1:]
    )
    assert values["protocol"] == "strict"
    for name in ARTEFACTS:
        assert (out / name).stat().st_size > 0
    # With the colon, which the embedded images' base64 cannot hold.
    page = (out / "report.html").read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    assert not {link for link in ("http:", "https:") if link in page}
    again = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    for name in METHODS:
        assert name in done.stdout
