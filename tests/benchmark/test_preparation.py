"""What cannot be is refused with one line, before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfml.benchmark.preparation import prepare
from dfml.errors import ConfigError
from tests.benchmark.small import options, plan
from tests.factories import written_zoo

TWO = {"letters": {"arch": ["conv4", "conv4_64"]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": 8}, "of glyphs/test has 8 images, but shot + query need 9"),
        ({"tasks": [{"way": 60}]}, "glyphs/test has 35 classes, but --way asks for 60"),
        ({"test_split": "val"}, "glyphs has the splits train and test, not 'val'"),
        ({"scenarios": {"far": {"zoos": "letters", "tests": "magic"}}}, "the data set 'magic' is needed"),
        ({"zoos": {"letters": {"members": 99}}}, "at most 14 members"),
        ({"zoos": {"letters": {"recipe": "magic"}}}, "unknown recipe 'magic'"),
        ({"zoos": {"letters": {"recipe_settings": {"magic": 1}}}}, "'magic': unknown setting"),
        ({"zoos": {"letters": {"arch": "magic"}}}, "unknown architecture 'magic'"),
        ({"zoos": {"letters": {"data": "glyphs@no"}}}, "NAME@SIZE"),
        ({"zoos": {"mine": {"path": "nowhere"}}}, "expected a zoo (a folder of classifiers)"),
        ({"zoos": TWO, "methods": {"average": {"optional": False}}}, "average cannot learn from the zoo letters"),
        ({"methods": {"magic": {}}}, "unknown method 'magic'"),
        ({"zoos": {"mine": {}}, "methods": {"zoo_embedding": {"zoo": "mine"}}}, "no folder of mine was given"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path / "out", **changes)
    assert words in str(caught.value)
    assert str(caught.value).startswith("suite small: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_paths_of_data_and_zoos_that_the_suite_does_not_have_are_refused(tmp_path: Path) -> None:
    asked = options(tmp_path / "out")
    with pytest.raises(ConfigError, match="no data set 'cub'; its names are glyphs"):
        prepare(replace(asked, data={"cub": tmp_path}))
    with pytest.raises(ConfigError, match="no zoo 'mine'; its names are letters"):
        prepare(replace(asked, zoos={"mine": tmp_path}))


def test_an_optional_method_that_cannot_be_has_no_job(tmp_path: Path) -> None:
    found = plan(tmp_path / "out", zoos=TWO)
    assert len(found.cells) == 3
    (reason,) = found.impossible.values()
    assert "averaging needs members of the learner's architecture" in reason
    assert {job.cell.row for job in found.jobs.values()} == {"purer", "zoo_embedding"}


def test_a_zoo_comes_from_the_suite_or_from_the_command_line(tmp_path: Path) -> None:
    written_zoo(tmp_path / "given")
    zoos = {"mine": {"path": "given"}, "weights": {}}
    methods = {"zoo_embedding": {"zoo": "mine"}, "average": {"zoo": "weights"}}
    without = plan(tmp_path / "out", zoos=zoos, methods=methods)
    assert without.zoo_paths["mine"] == tmp_path / "given"
    assert list(without.impossible.values()) == ["not measured: no folder of weights was given (--zoo weights=PATH)"]
    asked = replace(options(tmp_path / "out", zoos=zoos, methods=methods), zoos={"weights": tmp_path / "given"})
    found = prepare(asked)
    assert not found.impossible
    assert [job.zoo_paths for job in found.jobs.values()][1:] == [(tmp_path / "given",)] * 2


def test_files_of_evaluations_change_with_the_episodes_and_the_images(tmp_path: Path) -> None:
    def files(**changes: Any) -> set[Path]:
        return {path for job in plan(tmp_path / "out", **changes).jobs.values() for _, path in job.measurements}

    first = files()
    assert files() == first
    assert not files(episodes=7) & first
    assert not files(datasets={"glyphs": {"test_images": 9}}) & first
