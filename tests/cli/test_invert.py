"""`dfml invert`: by optimised pixels, by a generator from scratch, or by the meta-trained generator of a run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dfml.data.support import read_image
from dfml.inversion.ei import PixelInversion
from dfml.inversion.engine import InversionRun, Target, balanced_labels
from dfml.inversion.fidelity import measure
from dfml.inversion.inverted import folder_names, plan_rounds
from dfml.inversion.loss import InversionWeights
from dfml.inversion.meta_generator import FiveConfig, MetaGenerator
from dfml.inversion.registry import InversionConfig, LearnedEngine, without_member_state
from dfml.training.checkpoint import State, save_checkpoint
from dfml.training.engine_checkpoint import add_learned_engine
from dfml.zoo import Preprocessing, Zoo
from tests.cli.conftest import SIZE, World, dfml, error, results
from tests.factories import ZooMaker

SMALL = FiveConfig(width=8, latent=16, steps=2, weights=InversionWeights(batch_norm=0.1, momentum=0.9))
GENERATED_SIZE = 12  # height and width of the images of the run's generator
Run = Callable[..., Path]


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    """A run's folder with two checkpoints, written as the training loop writes them for any method."""

    def write(engine: str = "five") -> Path:
        place = tmp_path / f"run-{engine}"
        preprocessing = Preprocessing(GENERATED_SIZE, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        place.mkdir()
        (place / "config.yaml").write_text(yaml.safe_dump({"method": "somebody_s", "zoo": "elsewhere"}))
        zoo, generator = Zoo.open(world.zoo), MetaGenerator(SMALL, preprocessing)
        config = InversionConfig(engine=engine, five=SMALL)
        for iteration in (1, 2):
            inversion = generator.start([Target("member-000", zoo.classifier(0), balanced_labels(2, 3))], iteration)
            inversion.step()
            generator.learn(inversion)
            tensors = {f"engine.{name}": value for name, value in generator.state_dict().items()}
            # Statistics of another network: an error if they were used for the new member of the same name.
            tensors["engine.ema_statistics.member-000.0"] = torch.zeros(7)
            learned = LearnedEngine(config, preprocessing, without_member_state(generator.state_dict()))
            state = State({"theta": torch.zeros(2), **tensors})
            save_checkpoint(place / "checkpoints", iteration, add_learned_engine(state, learned))
        return place

    return write


def pictures(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("member-*/*/*.png"))}


def test_pixels_are_the_default(world: World, tmp_path: Path) -> None:
    out = tmp_path / "recovered"
    options = ("--member", "member-001", "--per-class", "2", "--steps", "3", "--set", "ei.weights.l2=0")
    found = results("invert", world.zoo, "--out", out, *options)
    assert list(found["members"]) == ["member-001"]
    assert found["members"]["member-001"]["labels"] == ["old_2", "old_3"]
    recorded = json.loads((out / "fidelity.json").read_text())
    assert recorded["members"] == found["members"]
    for name in ("old_2/0000.png", "old_2/0001.png", "old_3/0000.png", "old_3/0001.png"):
        with Image.open(out / "member-001" / name) as image:
            assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 2 * 64
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert list(config) == ["zoo", "seed", "ei"]
    assert (config["ei"]["steps"], config["ei"]["weights"]["l2"]) == (3, 0)


def test_the_table_says_why_no_other_member_is_asked(world: World, tmp_path: Path) -> None:
    options = ("--member", "member-001", "--per-class", "1", "--steps", "1")
    shown = dfml("invert", world.zoo, "--out", tmp_path / "recovered", *options)
    assert "other members %: - where no other member of the zoo has a class of the images" in shown.stdout


def test_little_memory_and_a_number_of_steps_are_settings(world: World, tmp_path: Path) -> None:
    found = results(
        "invert",
        world.zoo,
        "--out",
        tmp_path / "out",
        "--members",
        "1",
        "--per-class",
        "2",
        "--steps",
        "2",
        "--memory",
        "0.01",
    )
    assert len(found["members"]) == 1
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["ei"]["steps"], config["ei"]["search_steps"]) == (2, 0)
    few = ("--members", "1", "--per-class", "2", "--steps", "2")
    results("invert", world.zoo, "--out", tmp_path / "more", *few)
    for name, picture in pictures(tmp_path / "out").items():
        chunked, whole = (
            np.asarray(Image.open(io.BytesIO(data))).astype(int)
            for data in (picture, pictures(tmp_path / "more")[name])
        )
        assert np.abs(chunked - whole).max() <= 1  # of 256, by rounding


def test_images_that_are_only_noise_get_a_warning(world: World, tmp_path: Path) -> None:
    noisy = ("--steps", "1", "--set", "ei.lr=1000", "--set", "ei.weights.batch_norm=0")
    shown = dfml("invert", world.zoo, "--out", tmp_path / "out", "--members", "2", "--per-class", "2", *noisy)
    assert shown.exit_code == 0
    for member in ("member-000", "member-001"):
        assert f"\n{member}: " in shown.stdout


@pytest.mark.numeric
def test_a_member_of_many_classes_is_inverted_in_several_rounds(tmp_path: Path) -> None:
    labels = tuple(f"class {number:02d}" for number in range(45))
    ZooMaker(tmp_path / "zoo").member(labels=labels)
    out = tmp_path / "out"
    found = results("invert", tmp_path / "zoo", "--out", out, "--per-class", "2", "--steps", "2")["members"]
    made = pictures(out)
    assert sorted(made) == [f"member-000/class_{label:02d}/{image:04d}.png" for label in range(45) for image in (0, 1)]
    assert len(set(made.values())) == len(made)
    zoo = Zoo.open(tmp_path / "zoo")
    paths = sorted(out.glob("member-*/*/*.png"))
    images = torch.stack([read_image(path, SIZE) for path in paths])
    whole = measure(zoo, 0, images, balanced_labels(45, 2))
    # The written images are rounded to bytes, and are measured for all classes at once.
    assert found["member-000"]["agreement"] == pytest.approx(whole.agreement, abs=0.05)
    assert found["member-000"]["batch_norm_distance"] == pytest.approx(whole.batch_norm_distance, rel=0.2)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert 20 * 64 < sheet.height < 25 * 64  # the first twenty classes


def labels_of_rounds(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Labels of every round of an inversion."""
    labels: list[list[int]] = []
    start = PixelInversion.start

    def recorded_start(
        self: PixelInversion, targets: Sequence[Target], round_index: int = 0, **more: Any
    ) -> InversionRun:
        labels.extend(target.labels.tolist() for target in targets)
        return start(self, targets, round_index, **more)

    monkeypatch.setattr(PixelInversion, "start", recorded_start)
    shown = dfml("invert", *(str(argument) for argument in arguments))
    assert shown.exit_code == 0, shown.stderr
    return labels


def test_rounds_have_at_most_twenty_classes_and_about_equally_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ZooMaker(tmp_path / "zoo").member(labels=tuple(f"class {number:02d}" for number in range(21)))
    arguments = (tmp_path / "zoo", "--out", tmp_path / "out", "--per-class", "2", "--steps", "1")
    found = labels_of_rounds(*arguments, monkeypatch=monkeypatch)
    assert [sorted(set(labels)) for labels in found] == [list(range(10)), list(range(10, 21))]


def test_if_images_are_too_many_each_round_still_has_all_classes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfml.inversion.inverted._PIXELS_AT_ONCE", 5 * SIZE**2)
    arguments = (world.zoo, "--out", tmp_path / "out", "--members", "1", "--per-class", "5", "--steps", "1")
    found = labels_of_rounds(*arguments, monkeypatch=monkeypatch)
    assert found == [[0, 0, 1, 1], [0, 1], [0, 0, 1, 1]]
    made = pictures(tmp_path / "out")
    assert [Path(name).name for name in made] == [f"{number:04d}.png" for number in range(5)] * 2
    assert len(set(made.values())) == 10


@given(st.integers(1, 60), st.integers(1, 50), st.sampled_from([16, 84, 224, 1000, 3000]), st.integers(1, 30))
def test_rounds_recover_every_image_once_and_stay_within_the_limit_of_pixels(
    outputs: int, per_class: int, size: int, together: int
) -> None:
    rounds = plan_rounds(outputs, per_class, size, together)
    images = [(label, number) for classes, numbers in rounds for label in classes for number in numbers]
    assert sorted(images) == [(label, number) for label in range(outputs) for number in range(per_class)]
    classes = [len(of) for of, _ in rounds]
    assert max(classes) <= together
    assert max(classes) - min(classes) <= 1
    assert all(len(numbers) == 1 or len(of) * len(numbers) * size**2 <= 2**22 for of, numbers in rounds)


def test_folders_of_labels_that_look_alike_are_told_apart() -> None:
    labels = ("a b", "a_b-2", "a/b", "A_B", "", "///")
    names = folder_names(labels)
    assert len({name.lower() for name in names}) == len(labels)
    assert names[:2] == ["a_b", "a_b-2"]


def test_a_label_that_windows_takes_for_a_device_is_a_folder_too() -> None:
    assert folder_names(["con", "AUX.b", "console", f"{'a' * 79}.b"]) == ["con_", "AUX_b_", "console", "a" * 79]


def test_no_label_leads_out_of_its_folder_or_is_too_long_for_a_file_system(tmp_path: Path) -> None:
    labels = ("../../etc/passwd", "/root", "\x1b[2J", "a\nb", "x" * 2**20, "\U00010348" * 200, ".", "..", "\u202egpj")
    names = folder_names(labels)
    assert len(set(names)) == len(labels)
    for name in names:
        assert Path(name).name == name
        assert name.isprintable()
        (tmp_path / name).mkdir()
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_the_contact_sheet_has_the_first_members_of_a_large_zoo(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ("--per-class", "1", "--steps", "1")
    whole = dfml("invert", world.zoo, "--out", tmp_path / "whole", *shown)
    assert "contact sheet: " in whole.stdout
    monkeypatch.setattr(sys.modules["dfml.cli.invert"], "_SHEET_MEMBERS", 1)
    first = dfml("invert", world.zoo, "--out", tmp_path / "first", *shown)
    assert "contact sheet of the first 1 members: " in first.stdout
    areas = []
    for name in ("whole", "first"):
        with Image.open(tmp_path / name / "contact_sheet.png") as sheet:
            areas.append(sheet.width * sheet.height)
    assert areas[1] < areas[0]
    assert len(pictures(tmp_path / "first")) == len(pictures(tmp_path / "whole"))


def test_a_generator_from_scratch(world: World, tmp_path: Path) -> None:
    out = tmp_path / "recovered"
    small = ("--per-class", "2", "--set", "cmi.width=8", "--set", "cmi.steps=2")
    found = results("invert", world.zoo, "--engine", "cmi", "--out", out, *small)
    assert list(found["members"]) == ["member-000", "member-001"]
    assert len(pictures(out)) == 8
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert list(config) == ["zoo", "seed", "cmi"]
    assert (config["cmi"]["width"], config["cmi"]["steps"]) == (8, 2)


def test_a_new_member_is_recovered_by_the_generator_of_a_run(world: World, run: Run, tmp_path: Path) -> None:
    place, out = run(), tmp_path / "recovered"
    results("invert", world.zoo, "--engine", "five", "--from", place, "--out", out, "--per-class", "2")
    assert len(pictures(out)) == 8
    with Image.open(out / "member-001" / "old_3" / "0000.png") as image:
        assert image.size == (GENERATED_SIZE, GENERATED_SIZE)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["from"] == str(place / "checkpoints" / "000002")
    assert (config["five"]["width"], config["five"]["steps"]) == (8, 2)


def test_the_newest_checkpoint_counts_unless_one_is_named(world: World, run: Run, tmp_path: Path) -> None:
    place, made = run(), []
    for source in (place, place / "checkpoints" / "000002", place / "checkpoints" / "000001"):
        out = tmp_path / f"out-{len(made)}"
        options = ("--member", "member-000", "--per-class", "1")
        assert dfml("invert", world.zoo, "--engine", "five", "--from", source, "--out", out, *options).exit_code == 0
        made.append(pictures(out))
    assert made[0] == made[1] != made[2]


def test_settings_of_the_run_can_be_overridden(world: World, run: Run, tmp_path: Path) -> None:
    options = ("--engine", "five", "--from", run(), "--steps", "3", "--set", "five.lr=0.5", "--members", "1")
    assert dfml("invert", world.zoo, "--out", tmp_path / "out", *options, "--per-class", "1").exit_code == 0
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["five"]
    assert (config["steps"], config["lr"], config["latent"]) == (3, 0.5, 16)


def test_an_engine_that_learns_in_a_run_needs_one(world: World, run: Run, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    for engine in ("five", "fast_dfkd"):
        line = error(dfml("invert", world.zoo, *out, "--engine", engine), 2)
        assert "add --from RUN" in line
        assert f"dfml train ZOO --method free --set free.inversion.engine={engine}" in line
    for engine in ("ei", "cmi"):
        line = error(dfml("invert", world.zoo, *out, "--engine", engine, "--from", run(engine=engine)), 2)
        assert "drop --from" in line
    line = error(dfml("invert", world.zoo, *out, "--engine", "fast_dfkd", "--from", run()), 2)
    assert "use --engine five" in line
    assert not (tmp_path / "out").exists()


def _no_checkpoint(place: Path) -> None:
    shutil.rmtree(place / "checkpoints")


def _without_engine(place: Path) -> None:
    for folder in (place / "checkpoints").iterdir():
        shutil.rmtree(folder)
    save_checkpoint(place / "checkpoints", 2, State({"theta": torch.zeros(2)}))


def _damaged(place: Path) -> None:
    tensors = place / "checkpoints" / "000002" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        (shutil.rmtree, 1, "expected a run of `dfml train`"),
        (_no_checkpoint, 1, "found none; check the path"),
        (_without_engine, 2, "holds no meta-trained inversion engine"),
        (_damaged, 1, "is damaged"),
    ],
)
def test_what_is_wrong_with_a_run(
    world: World, run: Run, tmp_path: Path, how: Callable[[Path], None], code: int, words: str
) -> None:
    place = run()
    how(place)
    line = error(dfml("invert", world.zoo, "--out", tmp_path / "out", "--engine", "five", "--from", place), code)
    assert words in line
    assert not (tmp_path / "out").exists()


def test_wrong_settings_of_an_engine(world: World, run: Run, tmp_path: Path) -> None:
    invert = ("invert", world.zoo, "--out", tmp_path / "out")
    assert "write ei.lr=..." in error(dfml(*invert, "--set", "pixels.lr=1"), 2)
    assert "'cmi.magic': unknown setting" in error(dfml(*invert, "--engine", "cmi", "--set", "cmi.magic=1"), 2)
    assert "'cmi.beta1'" in error(dfml(*invert, "--engine", "cmi", "--set", "cmi.beta1=1.5"), 2)
    options = ("--set", "ei.weights.disagreement=1")
    assert "no student to disagree with" in error(dfml(*invert, *options), 2)
    wider = ("--engine", "five", "--from", run(), "--set", "five.width=12")
    line = error(dfml(*invert, *wider), 1)
    assert "does not fit" in line
    assert "width" in line
    assert not (tmp_path / "out").exists()
