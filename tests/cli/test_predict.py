"""`dfml predict` on many images: folders, patterns, a table, progress; and what it imports for one."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from dfml.cli import predict
from dfml.cli.image_paths import find_images
from dfml.errors import UsageError
from tests.cli.conftest import World, dfml, error, results


def test_folders_patterns_and_files_are_images(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.images / "test"
    everything = sorted(folder.rglob("*.png"))
    assert find_images([str(folder)]) == everything
    assert find_images([f"{folder}/*/0.png"]) == [path for path in everything if path.name == "0.png"]
    assert find_images([f"{folder}/**/*.png", str(everything[0])]) == everything
    strange = tmp_path / "a[1].png"
    strange.write_bytes(everything[0].read_bytes())
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images([str(strange)]) == find_images([str(tmp_path)]) == [strange]
    for nothing in (tmp_path / "*.jpg", world.zoo / "member-000"):
        with pytest.raises(UsageError, match=r"expected images at .*, found none"):
            find_images([str(nothing)])


def test_a_table_has_the_probability_of_every_class(world: World, tmp_path: Path) -> None:
    found = results("predict", world.classifier, world.images / "test", "--csv", tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [each["image"] for each in found["predictions"]]
    assert len(rows) == 18
    for row, each in zip(rows, found["predictions"], strict=True):
        assert row["label"] == each["labels"][0]["label"]
        probabilities = {name: float(row[f"probability of {name}"]) for name in ("new_0", "new_1", "new_2")}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert float(row["probability"]) == max(probabilities.values()) == probabilities[row["label"]]


def test_a_table_that_cannot_be_written_is_refused_first(world: World, tmp_path: Path) -> None:
    line = error(dfml("predict", world.classifier, world.images, "--csv", tmp_path / "no" / "table.csv"), 2)
    assert "--csv" in line


def test_many_images_show_progress(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(predict, "_MANY", 4)
    monkeypatch.setattr(predict, "_BATCH", 5)
    broken = world.images / "test" / "new_0" / "0.png"
    (tmp_path / "broken.png").write_bytes(broken.read_bytes()[:40])
    shown = dfml("predict", world.classifier, world.images / "test", tmp_path / "broken.png")
    assert shown.exit_code == 1
    assert shown.stdout.count("new_") == 36  # the folder and the label of each of 18 images
    assert "predict 19/19" in shown.stderr


HEAVY = ("timm", "torchvision", "huggingface_hub", "matplotlib", "transformers")


@pytest.mark.parametrize("command", ["predict", "adapt"])
def test_predict_and_adapt_of_own_backbones_import_neither_torchvision_nor_timm(
    command: str, world: World, tmp_path: Path
) -> None:
    code = (
        "import sys; from dfml.cli import app; app(sys.argv[1:], standalone_mode=False); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    arguments = {
        "predict": [world.classifier, next((world.images / "test").rglob("*.png"))],
        "adapt": [world.purer, world.images / "test", "--out", tmp_path / "classifier"],
    }
    script = [sys.executable, "-c", code, command, *map(str, arguments[command])]
    shown = subprocess.run(script, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]", shown.stdout
