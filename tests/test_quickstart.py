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
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.report.quickstart import explain, predictions_table, save_task, story_values, write_story
from dfml.zoo import Zoo

METHODS = ["purer", "random_init", "random_embedding", "average", "zoo_embedding"]
ARTEFACTS = ("report.html", "results.json", "contact_sheet.png", "learning_curve.svg", "learner/metrics.jsonl")


def small() -> QuickstartSettings:
    """Too little of everything to learn anything."""
    usual = QuickstartSettings()
    way = {"way": 2, "shot": 2, "query": 2, "iterations": 3, "warm_up": 1, "snapshot_every": 2, "checkpoint_every": 3}
    return usual.model_copy(
        update={
            "image_size": 16,
            "train_images": 8,
            "test_images": 6,
            "members": 2,
            "recipe": usual.recipe.override(epochs=1),
            "purer": usual.purer.model_copy(update=way),
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
    assert list(story.curve) == [0, 2, 3]
    assert story.curve[3] is story.evaluations[0]
    assert [row["iteration"] for row in story.metrics] == [1, 2, 3]
    assert [[each.label for each in classes] for classes in story.recovered] == [
        list(member.labels) for member in story.members
    ]
    assert story.stored_bytes["zoo_embedding"] > story.stored_bytes["purer"]
    assert len(Zoo.open(out / "zoo")) == 2


def test_recovered_images_are_the_ones_that_purer_ended_with(told: tuple[Story, Path, list[str]]) -> None:
    story, _, _ = told
    for classes in story.recovered:
        for each in classes:
            assert each.recovered.shape == (3, 3, 16, 16)
            assert each.real.shape == (3, 3, 16, 16)
            assert each.recovered.std() > 0


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
    with Image.open(out / "contact_sheet.png") as image:
        image.verify()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "dfml quickstart --out &lt;b&gt;here&lt;/b&gt;" in page
    assert all(name in page for name in METHODS)
    assert MetaLearner.from_pretrained(out / "learner").name == "purer"
    values = json.loads(json.dumps(story_values(story)))
    assert values["seed"] == 3
    assert values["methods"]["purer"]["accuracy"] == story.evaluations[0].accuracy
    assert values["curve"]["3"]["accuracy"] == story.evaluations[0].accuracy
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


def test_words_follow_the_figures(told: tuple[Story, Path, list[str]]) -> None:
    story, _, _ = told
    good = " ".join(explain(with_accuracies(story, purer=0.8, random_init=0.3, zoo_embedding=0.9)))
    assert "PURER is 50.0 ± 0.0 points above it" in good
    assert "That much was learned" in good
    assert "better served" in good
    bad = " ".join(explain(with_accuracies(story, purer=0.3, random_init=0.4, zoo_embedding=0.2)))
    assert "PURER is 10.0 ± 0.0 points below it" in bad
    assert "Nothing that could be measured was learned" in bad
    assert "better served" not in bad


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.slow
def test_quickstart_in_full_beats_an_untrained_network(tmp_path: Path) -> None:
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
    purer, untrained = values["methods"]["purer"], values["methods"]["random_init"]
    assert purer["accuracy"] - purer["ci"] > untrained["accuracy"] + untrained["ci"]
    assert values["protocol"] == "strict"
    assert len(values["curve"]) > 3
    for name in ARTEFACTS:
        assert (out / name).stat().st_size > 0
    assert "http" not in (out / "report.html").read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    again = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    for name in METHODS:
        assert name in done.stdout
