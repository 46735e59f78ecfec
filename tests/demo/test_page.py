"""The files of a quickstart show what it measured."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from dfml.data.support import read_image
from dfml.demo.page import predictions_table, quickstart_page, quickstart_values, save_task
from dfml.demo.quickstart_folder import QuickstartFolder
from dfml.learners import FewShotClassifier, MetaLearner
from tests.demo.quickstart_small import FOLDERS, METHODS, TRAINED, Finished


def test_a_class_without_recovered_images_leaves_a_gap(finished: Finished) -> None:
    result, out, _ = finished
    free = result.trainings["free"]
    nothing = replace(free.recovered[0][0], recovered=torch.zeros(0, 3, 16, 16))
    less = ((nothing, *free.recovered[0][1:]), *free.recovered[1:])
    bare = replace(result, trainings={**result.trainings, "free": replace(free, recovered=less)})
    sheets = quickstart_page(bare, "").sheets
    assert ["kept none of this class" in sheet.caption for sheet in sheets] == [False, False, True]
    with (
        Image.open(io.BytesIO(sheets[2].picture.png)) as incomplete,
        Image.open(QuickstartFolder(out).contact_sheet("free")) as full,
    ):
        assert incomplete.size == full.size


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
    for path in map(QuickstartFolder(out).contact_sheet, TRAINED):
        with Image.open(path) as image:
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


def test_every_trained_method_is_compared_with_all_others_once(finished: Finished) -> None:
    pairs = [(each.first, each.second) for each in finished[0].differences]
    assert pairs == [(one, other) for index, one in enumerate(TRAINED) for other in METHODS[index + 1 :]]
