"""`dfml zoo build` with several sizes, architectures and numbers of classes, and the size that a learner works at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dfml.cli.datasets import read_sizes
from dfml.errors import UsageError
from tests.cli.conftest import World, dfml, error, results


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A zoo of letters at two sizes, with two architectures and two ways, and what `--json` says of its members."""
    zoo = tmp_path_factory.mktemp("mixed") / "zoo"
    settings = ("--arch", "conv4,conv4_pyramid", "--way", "2,3", "--members", "8", "--epochs", "1", "--workers", "1")
    built = results("zoo", "build", "glyphs@16", "glyphs@20", "--out", zoo, *settings)
    return zoo, built["members"]


def test_every_size_architecture_and_way_meet(mixed: tuple[Path, list[dict[str, Any]]]) -> None:
    zoo, members = mixed
    triples = {(member["size"], member["architecture"], len(member["labels"])) for member in members}
    assert triples == {(size, arch, way) for size in (16, 20) for arch in ("conv4", "conv4_pyramid") for way in (2, 3)}
    assert not [label for member in members for label in member["labels"] if "/" in label]
    record = json.loads((zoo / "zoo.json").read_text())
    assert record["way"] == [2, 3]
    assert [dataset["size"] for dataset in record["datasets"]] == [16, 20]


def test_inspection_says_at_which_size_a_learner_works(
    mixed: tuple[Path, list[dict[str, Any]]], world: World, tmp_path: Path
) -> None:
    zoo, _ = mixed
    found = dfml("zoo", "inspect", zoo)
    assert "16 (4 of 8 members), 20 (4 of 8 members); a learner works at 20 x 20" in found.stdout
    assert "larger one on a tie; dfml train --size N" in found.stdout
    values = results("zoo", "inspect", zoo)
    assert values["learner_size"] == 20
    assert [member["size"] for member in values["members"]] == [16, 20] * 4
    assert "a learner works at" not in dfml("zoo", "inspect", world.zoo).stdout


@pytest.mark.parametrize(("option", "size"), [((), 20), (("--size", "24"), 24)])
def test_a_learner_works_at_the_size_that_is_asked_for(
    mixed: tuple[Path, list[dict[str, Any]]], tmp_path: Path, option: tuple[str, ...], size: int
) -> None:
    run = ("train", mixed[0], "--out", tmp_path / "run", "--method", "zoo_embedding", "--way", "3")
    assert dfml(*run, *option).exit_code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["preprocessing"]["size"] == size


def test_a_size_of_no_pixels_is_refused(world: World, tmp_path: Path) -> None:
    assert "'zoo_student.img_size'" in error(dfml("train", world.zoo, "--out", tmp_path / "run", "--size", "0"), 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("glyphs@0",), "side length in pixels, such as glyphs@32, found 'glyphs@0'"),
        (("glyphs@-8",), "found 'glyphs@-8'"),
        (("glyphs@abc",), "found 'glyphs@abc'"),
        (("glyphs@",), "found 'glyphs@'"),
        (("@32",), "found '@32'"),
        (("glyphs@16", "glyphs@16"), "'glyphs/train' twice at 16 pixels"),
        (("glyphs@16", "--way", "5,x"), "found 'x' in '5,x'"),
        (("glyphs@16", "--way", "5,"), "found '' in '5,'"),
        (("glyphs@16", "--way", "1"), "at least 2, found '1'"),
        (("glyphs@16", "--way", "2,44"), "way of at most 43, the classes of glyphs/train, found 44"),
        (("glyphs@40", "--arch", "conv4,test_vit"), "its patches have 16 x 16; choose a multiple of 16, such as 48"),
    ],
)
def test_wrong_usage_is_one_line_before_any_training(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    line = error(dfml("zoo", "build", *arguments, "--out", tmp_path / "zoo", "--members", "2"), 2)
    assert words in line
    assert not (tmp_path / "zoo").exists()


def test_what_exists_as_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("me@home", "data@48", "data"):
        Path(name).mkdir()
    asked = ["me@home", "me@home@16", "me@home/a@8", "data@48", "data@48@16", "data@47", "glyphs", "glyphs@9"]
    assert read_sizes(asked, 32) == [
        *(("me@home", 32), ("me@home", 16), ("me@home/a", 8)),
        *(("data@48", 32), ("data@48", 16), ("data", 47)),
        *(("glyphs", 32), ("glyphs", 9)),
    ]
    with pytest.raises(UsageError, match=re.escape("'you@home', which is no path either")):
        read_sizes(["you@home"], 32)
