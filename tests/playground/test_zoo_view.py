from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dfml.errors import RunError, ZooError
from dfml.learners import MetaLearner
from dfml.methods import METHODS
from dfml.playground.zoo_view import open_zoo_view
from tests.cli.conftest import results
from tests.factories import written_zoo
from tests.methods.test_methods import SMALL


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a zoo of three members and a learner that was trained on it for one meta-iteration."""
    zoo = written_zoo(tmp_path / "here" / "zoo")
    settings = {**SMALL["zoo_student"], "way": 3, "iterations": 1}
    METHODS["zoo_student"](**settings).fit(zoo, out=tmp_path / "here" / "learner", device="cpu")
    return tmp_path / "here"


def test_a_run_shows_its_members_and_the_images_of_its_training(trained: Path) -> None:
    view = open_zoo_view(str(trained / "learner"))
    assert [row[:3] for row in view.rows()] == [[f"m{index}", "conv4", "16"] for index in range(3)]
    assert view.rows()[0][3] == "a, b, c"
    images = view.recovered(0)
    assert [label for label, _ in images] == ["a", "b", "c"]
    count = sum(len(of_class) for _, of_class in images)
    assert count > 0
    assert f"of these {count} images; other members with the class for" in view.fidelity(0, images)


def test_a_folder_that_was_moved_with_its_zoo_still_shows_it(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "there"
    shutil.move(trained, moved)
    assert len(open_zoo_view(str(moved / "learner")).rows()) == 3


def test_a_zoo_that_is_gone_is_an_error(trained: Path) -> None:
    shutil.rmtree(trained / "zoo")
    with pytest.raises(ZooError):
        open_zoo_view(str(trained / "learner"))


def test_a_run_without_checkpoint_shows_members_and_says_that_there_are_no_images(trained: Path) -> None:
    shutil.rmtree(trained / "learner" / "checkpoints")
    view = open_zoo_view(str(trained / "learner"))
    images = view.recovered(1)
    assert [len(of_class) for _, of_class in images] == [0, 0, 0]
    assert "holds no images of this member" in view.fidelity(1, images)


def test_a_method_and_its_zoo_show_the_zoo(tmp_path: Path) -> None:
    written_zoo(tmp_path / "zoo")
    assert len(open_zoo_view(f"zoo_embedding:{tmp_path / 'zoo'}").rows()) == 3


def test_the_output_of_invert_shows_images_and_fidelity(tmp_path: Path) -> None:
    written_zoo(tmp_path / "zoo")
    options = ("--per-class", "2", "--steps", "2", "--threads", "1")
    expected = results("invert", tmp_path / "zoo", "--out", tmp_path / "images", *options)["members"]
    view = open_zoo_view("anything", tmp_path / "images")
    row = view.rows()[0]
    assert row[0] == "m0"
    assert row[1] == f"{expected['m0']['agreement']:.0%}"
    assert row[3] == "a, b, c"
    images = view.recovered(0)
    assert [(label, tuple(of_class.shape)) for label, of_class in images] == [(each, (2, 3, 16, 16)) for each in "abc"]
    assert f"for {expected['m0']['agreement']:.0%} of its recovered images" in view.fidelity(0, images)


@pytest.mark.parametrize("content", [None, "[]", json.dumps({"members": None}), "{"])
def test_a_folder_without_output_of_invert_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "fidelity.json").write_text(content)
    with pytest.raises(RunError, match="expected the output folder of `dfml invert`"):
        open_zoo_view("anything", tmp_path)


def test_a_learner_that_is_no_run_has_no_zoo_to_show(learner: MetaLearner, tmp_path: Path) -> None:
    learner.save_pretrained(tmp_path / "learner")
    with pytest.raises(RunError, match="is no run of `dfml train`"):
        open_zoo_view(str(tmp_path / "learner"))
