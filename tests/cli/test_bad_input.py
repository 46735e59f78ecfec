"""Mistakes of a user: one line on standard error, the right exit code, and no file is lost."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfml.cli import app
from tests.cli.conftest import FEW, SHORT, World, dfml, error

Spoil = Callable[[Callable[[Path], None]], Path]


def _truncate(member: Path) -> None:
    weights = member / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _make_nan(member: Path) -> None:
    tensors = load_file(member / "model.safetensors")
    tensors["head.weight"][0, 0] = torch.nan
    save_file(tensors, member / "model.safetensors")


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(member: Path) -> None:
        config = json.loads((member / "config.json").read_text())
        (member / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


@pytest.mark.parametrize(
    ("how", "words"),
    [
        pytest.param(_truncate, "damaged or cut short", id="truncated weights"),
        pytest.param(_make_nan, "NaN", id="NaN weights"),
        pytest.param(_edit(architecture="conv99"), "unknown architecture 'conv99'", id="unknown architecture"),
        pytest.param(_edit(num_classes=7), "7", id="wrong number of classes"),
        pytest.param(_edit(num_classes=3, label_names=["a", "b", "c"]), "does not fit", id="head of another size"),
    ],
)
def test_a_bad_member_is_refused_before_the_training(
    spoilt: Spoil, tmp_path: Path, how: Callable[[Path], None], words: str
) -> None:
    zoo = spoilt(how)
    line = error(dfml("train", zoo, "--out", tmp_path / "run", *SHORT), 1)
    assert "member-000" in line
    assert words in line
    assert not (tmp_path / "run").exists()
    assert dfml("zoo", "inspect", zoo).exit_code == 1


@pytest.mark.parametrize("subcommand", [("train",), ("invert",), ("zoo", "inspect")])
def test_an_empty_or_missing_zoo(tmp_path: Path, subcommand: tuple[str, ...]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    out = () if subcommand[-1] == "inspect" else ("--out", tmp_path / "out")
    assert "is empty" in error(dfml(*subcommand, empty, *out), 1)
    assert "missing" in error(dfml(*subcommand, tmp_path / "missing", *out), 1)
    assert not (tmp_path / "out").exists()


def _copy_images(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.images, tmp_path / "images"))


def test_images_that_do_not_decode(world: World, tmp_path: Path) -> None:
    images = _copy_images(world, tmp_path)
    (images / "test" / "new_1" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    line = error(dfml("evaluate", world.untrained, images, *FEW), 1)
    assert "new_1/3.png" in line


def test_a_class_with_fewer_than_shot_and_query_images(world: World, tmp_path: Path) -> None:
    images = _copy_images(world, tmp_path)
    for number in range(4):
        (images / "test" / "new_2" / f"{number}.png").unlink()
    line = error(dfml("evaluate", world.untrained, images, *FEW), 1)
    assert "class new_2" in line
    assert "has 2 images" in line


def test_a_way_larger_than_the_number_of_classes(world: World, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "way" in error(dfml("train", world.zoo, *out, "--method", "purer", "--way", "5"), 2)
    assert "--way asks for 4" in error(dfml("evaluate", world.untrained, world.images, *FEW, "--way", "4"), 1)
    assert "way" in error(dfml("zoo", "build", world.images, *out, "--way", "9", "--members", "1"), 2)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_never_written(world: World, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.purer.rglob("*")}
    existing = error(dfml("train", world.zoo, "--out", world.purer, *SHORT), 1)
    assert "is not empty" in existing
    assert "--resume" in existing
    assert "is not empty" in error(dfml("invert", world.zoo, "--out", world.purer), 1)
    assert "is not empty" in error(dfml("adapt", world.purer, world.images / "test", "--out", world.purer), 1)
    build = ("zoo", "build", world.images, "--out", world.purer, "--members", "1", "--way", "2")
    assert "choose another folder" in error(dfml(*build), 1)
    assert {path: path.stat().st_mtime_ns for path in world.purer.rglob("*")} == before


def test_a_zoo_of_other_settings_is_not_resumed(world: World) -> None:
    settings = ("--way", "2", "--disjoint", "--size", "16", "--epochs", "3")
    line = error(dfml("zoo", "build", world.images, "--out", world.zoo, *settings, "--seed", "5"), 1)
    assert "seed" in line


def test_a_resume_with_other_settings_names_them(world: World) -> None:
    metrics = (world.purer / "metrics.jsonl").read_bytes()
    line = error(dfml("train", world.zoo, "--out", world.purer, *SHORT, "--resume", "--shot", "2"), 1)
    assert "purer.shot 1 -> 2" in line
    assert (world.purer / "metrics.jsonl").read_bytes() == metrics


def test_a_start_from_a_path_that_is_no_checkpoint(world: World, tmp_path: Path) -> None:
    start = ("--from", world.zoo)
    line = error(dfml("train", world.zoo, "--out", tmp_path / "run", *SHORT, *start), 1)
    assert "expected a checkpoint" in line
    assert not (tmp_path / "run").exists()


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Stands in for a full disk: the operating system refuses to write larger files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(world: World, tmp_path: Path) -> None:
    support = world.images / "test"
    run = tmp_path / "run"
    every = (*SHORT, "--set", "purer.snapshot_every=100")
    with _files_of_at_most(64 * 1024):
        trained = dfml("train", world.zoo, "--out", run, *every)
        adapted = dfml("adapt", world.purer, support, "--out", tmp_path / "classifier")
    assert "cannot be written" in error(trained, 1)
    assert "--resume" in trained.stderr
    error(adapted, 1)
    assert not list(tmp_path.glob("*classifier*"))
    # With room again, the resumed run has the same result as one that was never interrupted.
    assert dfml("train", world.zoo, "--out", run, *every, "--resume").exit_code == 0
    assert (run / "model.safetensors").read_bytes() == (world.purer / "model.safetensors").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_results_that_cannot_be_written(world: World) -> None:
    picture = world.images / "test" / "new_0" / "0.png"
    assert "No space left" in error(dfml("predict", world.classifier, picture, "--json", "/dev/full"), 1)


def test_a_results_file_in_a_missing_folder_is_refused_before_the_work(world: World, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "results.json"
    line = error(dfml("train", world.zoo, "--out", tmp_path / "run", *SHORT, "--json", missing), 2)
    assert str(missing) in line
    assert not (tmp_path / "run").exists()


def test_a_report_of_an_unknown_format_is_refused_before_the_work(world: World, tmp_path: Path) -> None:
    arguments = ("evaluate", world.untrained, world.images, "--way", "3", "--query", "2", "--episodes", "100000000")
    assert ".html, .md, .csv" in error(dfml(*arguments, "--report", tmp_path / "report.pdf"), 2)
    assert "folder that exists" in error(dfml(*arguments, "--report", tmp_path / "missing" / "report.md"), 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "magic"), "unknown method 'magic'"),
        (("--preset", "fast"), "unknown preset 'fast'"),
        (("--set", "zoo_student.magic=1"), "'zoo_student.magic': unknown setting; known are"),
        (("--set", "zoo_student.shots=3"), "'zoo_student.shots': unknown setting; did you mean 'zoo_student.shot'?"),
        (("--set", "zoo_student.shot=many"), "'zoo_student.shot'"),
        (("--set", "shot"), "expected --set zoo_student.NAME=VALUE"),
        (("--set", "average.shot=1"), "this run is for zoo_student, not average"),
        (("--set", "zoo_student.shot=[1"), "not YAML"),
        (("--device", "abacus"), "'abacus'"),
        (("--class-identity", "similar"), "class identity"),
        (("--iterations", "-1"), "'zoo_student.iterations'"),
        (("--config", "no/such.yaml"), "no/such.yaml"),
    ],
)
def test_wrong_usage_of_train(world: World, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    line = error(dfml("train", world.zoo, "--out", tmp_path / "run", *arguments), 2)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_training_needs_a_zoo_and_an_output_folder(world: World) -> None:
    assert "expected the folder of a zoo" in error(dfml("train", "--out", "somewhere"), 2)
    assert "--out LEARNER" in error(dfml("train", world.zoo), 2)


def test_wrong_learners(world: World, tmp_path: Path) -> None:
    images = world.images
    assert "expected a learner's folder" in error(dfml("evaluate", "no-such-learner", images, *FEW), 1)
    assert "found a classifier" in error(dfml("evaluate", world.classifier, images, *FEW), 1)
    assert "at least one learner" in error(dfml("evaluate", world.images, images, *FEW), 2)
    assert "purer has to be trained" in error(dfml("evaluate", f"purer:{world.zoo}", images, *FEW), 2)
    assert "at least one learner" in error(dfml("evaluate", images), 2)
    assert "classifier" in error(dfml("predict", world.purer, "x.png"), 1)
    missing = ("evaluate", f"best_member:{world.zoo}", tmp_path / "missing", *FEW)
    assert "expected an image folder" in error(dfml(*missing), 1)  # without a training before


def test_data_sets_of_one_name_are_refused(world: World) -> None:
    assert "different names" in error(dfml("evaluate", world.untrained, world.images, world.images, *FEW), 2)


def test_the_error_of_an_unfinished_run_says_how_to_resume_it(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.purer, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    found = error(dfml("evaluate", tmp_path / "run", world.images, *FEW), 1)
    assert "is not finished" in found
    assert str(sorted((world.purer / "snapshots").iterdir())[-1].name) in found


def test_wrong_choices_of_members(world: World, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "no member 'member-9'" in error(dfml("invert", world.zoo, *out, "--member", "member-9"), 2)
    assert "more members than the zoo has" in error(dfml("invert", world.zoo, *out, "--members", "3"), 2)
    both = ("--member", "member-000", "--members", "1")
    assert "contradict" in error(dfml("invert", world.zoo, *out, *both), 2)
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_wrong_usage(world: World) -> None:
    assert dfml("train", world.zoo, "--magic").exit_code == 2
    assert dfml("magic").exit_code == 2


def test_a_bug_shows_its_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*arguments: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("dfml.image_inputs.read_file", bug)
    with pytest.raises(AssertionError, match="a bug"):
        dfml("predict", world.classifier, world.images)
    assert not app.pretty_exceptions_enable
