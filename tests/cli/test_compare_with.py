"""`dfml invert --compare-with`: the owner's nearest training image beside each recovered one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfml.cli.compare_with import open_training
from tests.cli.conftest import World, dfml, error, results, write_images

FEW = ("--per-class", "2", "--steps", "2")


def test_every_recovered_image_has_a_nearest_training_image(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = results("invert", world.zoo, "--out", out, *FEW, "--compare-with", world.images)
    for summary, member in zip(found["comparison"], found["members"], strict=True):
        assert summary["member"] == member
        assert summary["training_images"] == 20  # of the member's own two classes
        assert summary["same_class_by_chance"] == 0.5
        assert 0 <= summary["baseline_distance"] <= 2
    written = json.loads((out / "nearest.json").read_text(encoding="utf-8"))
    assert written["members"] == found["comparison"]
    assert len(written["images"]) == sum(each["images"] for each in found["comparison"]) == 8
    for each in written["images"]:
        assert (out / each["image"]).is_file()
        assert (world.images / each["nearest"]).is_file()
        assert each["nearest"].startswith("train/")
        assert 0 <= each["distance"] <= 2
    with Image.open(out / "nearest.png") as sheet:
        assert sheet.width > 4 * 64


def test_members_inverted_together_are_compared_together_with_held_out_images(world: World, tmp_path: Path) -> None:
    write_images(tmp_path / "held-out", classes=4, per_class=3, seed=5, prefix="old")
    options = ("--engine", "consensus", "--compare-with", world.images, "--held-out", tmp_path / "held-out")
    found = results("invert", world.zoo, "--out", tmp_path / "out", *FEW, *options)
    (summary,) = found["comparison"]
    assert (summary["member"], summary["images"], summary["training_images"]) == ("all members", 8, 40)
    written = json.loads((tmp_path / "out" / "nearest.json").read_text(encoding="utf-8"))
    assert all((tmp_path / "out" / each["image"]).is_file() for each in written["images"])


def test_images_of_other_names_are_compared_as_a_whole(world: World, tmp_path: Path) -> None:
    write_images(tmp_path / "others", classes=2, per_class=4, seed=3, prefix="other")
    options = ("--member", "member-000", "--compare-with", tmp_path / "others")
    shown = dfml("invert", world.zoo, "--out", tmp_path / "out", *FEW, *options)
    assert shown.exit_code == 0, shown.stderr
    (summary,) = json.loads((tmp_path / "out" / "nearest.json").read_text(encoding="utf-8"))["members"]
    assert (summary["training_images"], summary["same_class"]) == (8, None)


def test_missing_images_are_an_error_before_anything_is_recovered(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = error(dfml("invert", world.zoo, "--out", out, *FEW, "--compare-with", tmp_path / "none"), 1)
    assert "expected an image folder or a zip" in message
    assert not out.exists()


def test_a_baseline_without_training_images_is_wrong_usage(world: World, tmp_path: Path) -> None:
    message = error(dfml("invert", world.zoo, "--out", tmp_path / "out", "--held-out", world.images), 2)
    assert "--compare-with" in message


@pytest.mark.parametrize("name", ["glyphs", "folder"])
def test_every_training_image_has_a_file_name(world: World, name: str) -> None:
    own = open_training(name if name == "glyphs" else str(world.images), None)
    assert len(own.files) == len(own.training) == len(set(own.files))
    classes = [file.split("/")[-2] for file in own.files]
    expected = torch.tensor([own.training.classes.index(each) for each in classes])
    assert torch.equal(expected, own.training.labels)
