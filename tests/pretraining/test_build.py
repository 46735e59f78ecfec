"""Building a zoo: its members are correct, and neither interruptions nor the number of workers change a bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dfml.backbones import size_arguments
from dfml.data.dataset import ImageDataset
from dfml.data.image_folder import open_images
from dfml.errors import DataError, RunError, UsageError, ZooMemberError
from dfml.pretraining import PAPER, STRONG, BuiltMember, build_zoo
from dfml.pretraining.classifier_training import split_images
from dfml.pretraining.cost import best_workers, has_batch_norm, seconds_per_image
from dfml.pretraining.normalisation import pixel_statistics
from dfml.zoo import Preprocessing, Zoo
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.vetting import read_member_config

from .images import patterns

SHORT = STRONG.override(epochs=2, batch_size=16)


def build(out: Path, *datasets: ImageDataset, **settings: Any) -> list[BuiltMember]:
    chosen: dict[str, Any] = {"members": 3, "way": 3, "recipe": SHORT, "seed": 1, **settings}
    return build_zoo(datasets or [patterns()], out, **chosen)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_zoo_matches_its_record(tmp_path: Path) -> None:
    dataset = patterns()
    reports: list[tuple[str, int, int]] = []
    built = build(
        tmp_path / "zoo", dataset, progress=lambda member, done, total: reports.append((member.name, done, total))
    )
    assert reports == [("member-000", 1, 3), ("member-001", 2, 3), ("member-002", 3, 3)]
    zoo = Zoo.open(tmp_path / "zoo")
    zoo.vet()
    assert len(zoo) == 3
    assert zoo.preprocessing() == pixel_statistics(dataset)
    for index, member in enumerate(built):
        assert member.seconds is not None
        assert (member.number, member.name) == (index, zoo.name(index))
        assert member.labels == zoo[index].labels
        chosen = dataset.select(member.labels)
        _, held_out = split_images(chosen)
        predicted = zoo[index].logits(chosen.images[held_out].float() / 255).argmax(1)
        accuracy = float((predicted == chosen.labels[held_out]).double().mean())
        assert member.held_out_accuracy == pytest.approx(accuracy, abs=1e-4)
        config = read_member_config(tmp_path / "zoo" / member.name)
        assert config.details == {
            "dataset": "patterns",
            "split": "train",
            "recipe": "strong",
            "epochs": 2,
            "seed": 1,
            "held_out_accuracy": member.held_out_accuracy,
        }


def test_an_interrupted_build_resumes_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    build(tmp_path / "whole")

    def interrupt(member: BuiltMember, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", progress=interrupt)
    assert [path.name for path in sorted((tmp_path / "parts").iterdir())] == ["member-000", "zoo.json"]
    stale = tmp_path / "parts" / ".member-001.17.unfinished"
    stale.mkdir()
    written = (tmp_path / "parts" / "member-000" / WEIGHTS).stat().st_mtime_ns
    built = build(tmp_path / "parts")
    assert [member.seconds is None for member in built] == [True, False, False]
    assert (tmp_path / "parts" / "member-000" / WEIGHTS).stat().st_mtime_ns == written
    assert not stale.exists()
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    again = build(tmp_path / "parts")
    assert [replace(member, seconds=None) for member in built] == again


def test_members_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    build(tmp_path / "few", members=1)
    build(tmp_path / "many", members=2)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert all(many[name] == few[name] for name in few if name != "zoo.json")


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    for seed in (1, 2):
        build(tmp_path / str(seed), members=1, disjoint=True, seed=seed)
    first, second = (read_member_config(tmp_path / seed / "member-000") for seed in ("1", "2"))
    assert first.labels == second.labels
    assert (first.path / WEIGHTS).read_bytes() != (second.path / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_members_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    build(tmp_path / "one", workers=1)
    built = build(tmp_path / "two", workers=2)
    assert [member.number for member in built] == [0, 1, 2]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are a POSIX matter")
def test_ctrl_c_ends_every_process_and_keeps_the_finished_members(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal
            import torch
            from dfml.data.dataset import ImageDataset
            from dfml.pretraining import PAPER, build_zoo

            if __name__ == "__main__":
                signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
                images = torch.arange(40 * 3 * 256).view(40, 3, 16, 16).to(torch.uint8)
                dataset = ImageDataset(images, torch.arange(2).repeat_interleave(20), ("a", "b"), "d")
                build_zoo([dataset], {str(tmp_path / "zoo")!r}, members=60, way=2, workers=2,
                          recipe=PAPER.override(epochs=100), progress=lambda *_: print("ready", flush=True))
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1  # the script's own: the processes that it started are silent
    assert errors.rstrip().endswith("KeyboardInterrupt")
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process outlived Ctrl-C")
    assert 1 <= len(Zoo.open(tmp_path / "zoo")) < 60
    assert not list((tmp_path / "zoo").glob(".*"))
    Zoo.open(tmp_path / "zoo").vet()


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.numeric
def test_a_real_member_learns_its_classes(tmp_path: Path, shared: Path) -> None:
    dataset = open_images(shared / "cifar-fs.zip", split="train", cache=tmp_path / "cache")
    recipe = PAPER.override(epochs=6)
    (member,) = build_zoo([dataset], tmp_path / "zoo", members=1, disjoint=True, recipe=recipe)
    theirs = read_member_config(shared / "zoos" / "cifar-fs-disjoint-paper" / "member-000")
    assert member.labels == theirs.labels
    assert 0.7 < member.held_out_accuracy < 0.95  # 0.88 after all 60 epochs
    assert theirs.preprocessing.mean == pytest.approx(pixel_statistics(dataset).mean, abs=0.01)


def test_architectures_and_data_sets_of_several_sizes_mix(tmp_path: Path) -> None:
    small = patterns(("ant", "bee", "cat"), name="small/train")
    large = patterns(("cat", "dog", "elk"), name="large", size=32)
    built = build(tmp_path / "zoo", small, large, members=4, architectures=["conv4", "conv4_64"])
    zoo = Zoo.open(tmp_path / "zoo")
    zoo.vet()
    assert [member.architecture for member in built] == ["conv4", "conv4_64", "conv4_64", "conv4"]
    assert [zoo[index].preprocessing.size for index in range(4)] == [16, 32, 16, 32]
    assert zoo[3].preprocessing == pixel_statistics(large)
    assert set(zoo.classes.names) == {"ant", "bee", "small/train/cat", "large/cat", "dog", "elk"}
    assert [(config.details["dataset"], config.details["split"]) for config in zoo.member_configs if config] == [
        ("small", "train"),
        ("large", None),
    ] * 2


def test_the_same_data_at_two_sizes_has_the_same_labels(tmp_path: Path) -> None:
    sizes = patterns(), patterns(size=24)
    built = build(tmp_path / "zoo", *sizes, members=4, way=(2, 5), disjoint=False)
    assert [(member.size, len(member.labels)) for member in built] == [(16, 2), (24, 5), (16, 5), (24, 2)]
    assert set(Zoo.open(tmp_path / "zoo").classes.names) == set(sizes[0].classes)
    assert json.loads((tmp_path / "zoo" / "zoo.json").read_text())["way"] == [2, 5]
    again = build(tmp_path / "zoo", *sizes, members=4, way=(2, 5), disjoint=False)
    assert [replace(member, seconds=None) for member in built] == again
    with pytest.raises(RunError, match=r"way\.1 is 5 there and 4 here"):
        build(tmp_path / "zoo", *sizes, members=4, way=(2, 4), disjoint=False)


def test_a_zoo_whose_record_lacks_the_newest_settings_is_resumed(tmp_path: Path) -> None:
    """As written before a zoo had several ways, and a recipe an optimiser of networks without batch-norm layers."""
    large = patterns(size=40)
    build(tmp_path / "zoo", members=1, way=(3,))
    recorded = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    assert recorded["way"] == 3
    assert not {"no_batch_norm", "crop_padding_by_size"} & recorded["recipe"].keys()
    assert build(tmp_path / "zoo", members=1)[0].seconds is None
    build(tmp_path / "larger", large, members=1)
    changed = json.loads((tmp_path / "larger" / "zoo.json").read_text())
    assert changed["recipe"].pop("crop_padding_by_size") == {"40": 5}
    (tmp_path / "larger" / "zoo.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match=r"recipe\.crop_padding_by_size\.40 is not set there and 5 here"):
        build(tmp_path / "larger", large, members=1)


def test_the_optimiser_of_networks_without_batch_norm_is_recorded_where_it_is_used(tmp_path: Path) -> None:
    build(tmp_path / "zoo", members=2, architectures=["conv4", "test_vit"], recipe=SHORT.override(epochs=1))
    recorded = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    assert recorded["recipe"]["no_batch_norm"]["optimiser"] == "adamw"


def test_a_given_preprocessing_is_used(tmp_path: Path) -> None:
    given = Preprocessing(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    build(tmp_path / "zoo", preprocessing=[given], members=1)
    assert Zoo.open(tmp_path / "zoo").preprocessing() == given
    with pytest.raises(UsageError, match=r"one preprocessing per data set, of sizes \[16\], found sizes \[32\]"):
        build(tmp_path / "other", preprocessing=[replace(given, size=32)])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed is 1 there and 2 here"),
        ({"way": 2}, "way is 3 there and 2 here"),
        ({"members": 2}, "members is 3 there and 2 here"),
        ({"architectures": ["conv4_64"]}, "architectures.0 is conv4 there and conv4_64 here"),
        ({"architectures": ["conv4", "conv4_64"]}, "architectures.1 is not set there and conv4_64 here"),
        ({"recipe": SHORT.override(epochs=3)}, "recipe.epochs is 2 there and 3 here"),
        ({"recipe": PAPER}, "more differences"),
    ],
)
def test_a_zoo_of_other_settings_is_not_changed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    build(tmp_path / "zoo")
    before = contents(tmp_path / "zoo")
    with pytest.raises(RunError, match=named):
        build(tmp_path / "zoo", **change)
    assert contents(tmp_path / "zoo") == before


def test_a_data_set_of_the_same_name_with_other_images_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "zoo", members=1)
    other = patterns()
    other.images[0, 0, 0, 0] ^= 1
    given = [pixel_statistics(patterns())]
    with pytest.raises(RunError, match=r"other settings"):
        build(tmp_path / "zoo", other, members=1, preprocessing=given)


@pytest.mark.parametrize("kind", ["file", "folder", "damaged record"])
def test_a_folder_of_something_else_is_not_changed(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("zoo.json" if kind == "damaged record" else "thesis.tex")).write_text("{mine")
    with pytest.raises(RunError, match=str(out)):
        build(out)
    assert (out.read_text() if kind == "file" else next(out.iterdir()).read_text()).endswith("mine")
    assert kind == "file" or len(list(out.iterdir())) == 1


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    assert len(build(tmp_path, members=1)) == 1


def test_a_damaged_member_is_reported_and_not_replaced(tmp_path: Path) -> None:
    build(tmp_path / "zoo")
    (tmp_path / "zoo" / "member-001" / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(ZooMemberError, match=r"member-001.*remove the member"):
        build(tmp_path / "zoo")
    assert (tmp_path / "zoo" / "member-001" / WEIGHTS).read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"way": 6}, UsageError, "way of at most 5"),
        ({"workers": 0}, UsageError, "at least 1 worker"),
        ({"architectures": ["resnet19"]}, UsageError, "unknown architecture 'resnet19'"),
        ({"architectures": ["conv4", "convnext_atto"]}, UsageError, "'convnext_atto' cannot learn from images of 16"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        build(tmp_path / "zoo", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "zoo").exists()


def test_a_class_that_is_too_small_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'ant' has 1 image"):
        build(tmp_path / "zoo", patterns(per_class=1))
    assert not (tmp_path / "zoo").exists()


def test_a_full_disk_keeps_the_finished_members(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on the size of files are a POSIX matter")
    build(tmp_path / "zoo", members=2)
    whole = contents(tmp_path / "zoo")
    for path in (tmp_path / "zoo" / "member-001").iterdir():
        path.unlink()
    (tmp_path / "zoo" / "member-001").rmdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*member-001.*finished members are kept"):
            build(tmp_path / "zoo", members=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = contents(tmp_path / "zoo")
    assert left == {name: content for name, content in whole.items() if "member-001" not in name}
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == {"zoo.json", "member-000"}
    build(tmp_path / "zoo", members=2)
    assert contents(tmp_path / "zoo") == whole


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the zoo to"):
        build(tmp_path / "file" / "zoo")


def test_the_settings_are_recorded(tmp_path: Path) -> None:
    build(tmp_path / "zoo", members=1)
    recorded = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    assert (recorded["members"], recorded["way"], recorded["seed"], recorded["disjoint"]) == (1, 3, 1, False)
    assert recorded["recipe"]["epochs"] == 2
    assert recorded["datasets"][0]["name"] == "patterns/train"
    assert not (tmp_path / "zoo" / CONFIG).exists()


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        *(("conv4", 48), ("fewshot_resnet10", 40), ("test_vit", 64), ("test_resnet", 48)),
        *(("vit_tiny_patch16_224", 64), ("vit_tiny_patch16_224", 48), ("convnext_atto", 48)),
    ],
)
def test_architectures_are_built_for_the_size_of_the_images(architecture: str, size: int) -> None:
    assert seconds_per_image(architecture, size_arguments(architecture, size), 3, size) > 0


def test_images_that_patches_do_not_cover_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images of 40 x 40 pixels: its patches have 16 x 16; .* such as 48"):
        build(tmp_path / "zoo", patterns(), patterns(size=40), architectures=["conv4", "vit_tiny_patch16_224"])
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("architecture", "batch_norm"),
    [("conv4", True), ("test_resnet", True), ("test_vit", False), ("convnext_atto", False)],
)
def test_batch_norm_layers_are_found(architecture: str, batch_norm: bool) -> None:
    assert has_batch_norm(architecture, size_arguments(architecture, 32)) == batch_norm


@pytest.mark.parametrize(
    ("seconds", "jobs", "device", "threads", "expected"),
    [
        (1000.0, 13, "cpu", 2, 2),
        (1000.0, 13, "cpu", 64, 13),
        (1000.0, 13, "cpu", 1, 1),
        (1000.0, 13, "cuda", 8, 1),
        (1000.0, 1, "cpu", 8, 1),
        (2.0, 13, "cpu", 8, 1),
        (0.0, 0, "cpu", 8, 1),
    ],
)
def test_processes_are_started_where_they_save_more_than_they_cost(
    seconds: float, jobs: int, device: str, threads: int, expected: int
) -> None:
    torch.set_num_threads(threads)
    assert best_workers(seconds, jobs, torch.device(device)) == expected
