"""`--on-bad-member` of subcommands that read a zoo for work, and `--network` of `dfml evaluate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dfml.zoo import Zoo
from dfml.zoo.formats import WEIGHTS
from tests.cli.conftest import World, dfml, results
from tests.cli.test_zoo_add import OWNER, STATED, weights
from tests.factories import SIZE, ZooMaker

__all__ = ["weights"]  # a fixture


@pytest.fixture
def broken(tmp_path: Path) -> ZooMaker:
    """Two good members and two damaged ones."""
    maker = ZooMaker(tmp_path / "zoo")
    for index in range(4):
        folder, _ = maker.member(f"m{index}", labels=(f"a{index}", f"b{index}"), seed=index)
        if index in (1, 2):
            (folder / WEIGHTS).rename(folder / "kept")
            (folder / WEIGHTS).write_bytes(b"damaged")
    return maker


def test_all_bad_members_are_listed_before_any_work(broken: ZooMaker, world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command in (
        ("train", broken.path, "--method", "random_init", "--out", out),
        ("invert", broken.path, "--out", out),
        ("evaluate", f"zoo_embedding:{broken.path}", world.images),
    ):
        shown = dfml(*command)
        assert shown.exit_code == 1
        errors = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 3
        assert "m1" in errors[0]
        assert "m2" in errors[1]
        assert "2 of 4 zoo members cannot be used" in errors[2]
        assert errors[2].endswith("or leave them out with --on-bad-member skip")
        assert not out.exists()


def test_bad_members_are_left_out_with_one_line(broken: ZooMaker, world: World, tmp_path: Path) -> None:
    skip = ("--on-bad-member", "skip")
    for command in (
        ("train", broken.path, "--method", "random_init", "--out", tmp_path / "learner"),
        ("invert", broken.path, "--per-class", "1", "--steps", "1", "--out", tmp_path / "images"),
        ("evaluate", f"zoo_embedding:{broken.path}", world.images, "--way", "2", "--query", "3", "--episodes", "2"),
    ):
        shown = dfml(*command, *skip)
        assert shown.exit_code == 0, shown.stderr
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith("left out 2 members")]
        assert "m1: " in line
        assert "m2: " in line
    assert sorted(path.name for path in (tmp_path / "images").iterdir() if path.is_dir()) == ["m0", "m3"]


def test_a_resumed_run_has_the_same_members_even_if_others_can_be_used_by_now(broken: ZooMaker, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("train", broken.path, "--method", "random_init", "--out", run)
    assert results(*command, "--on-bad-member", "skip")["left_out"].keys() == {"m1", "m2"}
    assert yaml.safe_load((run / "config.yaml").read_text())["left_out"] == ["m1", "m2"]
    for name in ("m1", "m2"):
        (broken.path / name / "kept").replace(broken.path / name / WEIGHTS)
    assert len(Zoo.open(broken.path)) == 4
    assert results(*command, "--resume")["members"] == 2
    again = ("train", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert results(*again)["members"] == 2


def test_a_resumed_run_refuses_to_go_on_with_fewer_members(broken: ZooMaker, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("train", broken.path, "--method", "random_init", "--on-bad-member", "skip", "--out", run)
    assert dfml(*command).exit_code == 0
    (broken.path / "m3" / WEIGHTS).write_bytes(b"damaged")
    shown = dfml(*command, "--resume")
    assert shown.exit_code == 1
    assert "holds a run with other settings" in shown.stderr
    assert "m3" in shown.stderr


def test_evaluate_runs_an_owner_s_network_that_it_names(weights: Path, world: World, tmp_path: Path) -> None:
    zoo, file = tmp_path / "zoo", tmp_path / "owner.py"
    file.write_text(OWNER)
    stated = ("--labels", "ant,bee,cat", "--size", str(SIZE), "--mean", "0.5", "--std", "0.25")
    results("zoo", "add", weights, "--zoo", zoo, "--network", f"{file}:Net", *stated)
    other = tmp_path / "other"  # another zoo, which has no member of that name
    results("zoo", "add", weights, "--zoo", other, "--name", "plain", *STATED, "--range", "0..1")
    learners = (f"zoo_embedding:{zoo}", f"random_embedding:{other}")
    command = ("evaluate", *learners, world.images, "--way", "2", "--query", "3", "--episodes", "2")
    assert "--network colours=" in " ".join(dfml(*command).output.split())
    assert dfml(*command, "--network", f"colours={file}:Net").exit_code == 0
    wrong = dfml(*command, "--network", f"colour={file}:Net")
    assert wrong.exit_code == 2
    assert "no zoo of a METHOD:ZOO has a member colour" in wrong.stderr
