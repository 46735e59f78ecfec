"""From labelled images to predictions, by commands alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import FEW, SHORT, World, dfml, error, results

EPISODES = (*FEW, "--episodes", "6")


def test_a_finished_zoo_is_not_trained_again(world: World) -> None:
    settings = ("--way", "2", "--disjoint", "--size", "16", "--epochs", "3")
    built = results("zoo", "build", world.images, "--out", world.zoo, *settings)
    assert [member["labels"] for member in built["members"]] == [["old_0", "old_1"], ["old_2", "old_3"]]
    assert [member["seconds"] for member in built["members"]] == [None, None]


def test_inspection_lists_every_member(world: World) -> None:
    found = results("zoo", "inspect", world.zoo)
    assert found["usable"]
    assert [member["name"] for member in found["members"]] == ["member-000", "member-001"]
    assert found["classes"] == 4
    table = dfml("zoo", "inspect", world.zoo)
    assert table.exit_code == 0
    assert "28,962" in table.stdout
    assert re.search(r"member-000\W+timm\W+conv4", table.stdout)
    assert "2 members, 0 bad, 4 classes, 0 of them merged" in table.stdout


def test_inspection_marks_a_bad_member_and_checks_the_others(spoilt) -> None:
    zoo = spoilt(lambda member: (member / "model.safetensors").write_bytes(b"\x00" * 64))
    found = dfml("zoo", "inspect", zoo)
    assert found.exit_code == 1
    assert "member-000: BAD: model.safetensors is damaged" in found.stdout
    assert "2 members, 1 bad" in found.stdout
    assert "28,962" in found.stdout


def test_inspection_lists_merged_classes(world: World, tmp_path: Path) -> None:
    mapping = tmp_path / "same.yaml"
    mapping.write_text(yaml.safe_dump({"member-000": {"old_0": "red"}, "member-001": {"old_2": "red"}}))
    found = dfml("zoo", "inspect", world.zoo, "--class-identity", mapping)
    assert "merged class red: member-000, member-001" in found.stdout


def test_a_runs_folder_records_how_it_was_made(world: World) -> None:
    config = yaml.safe_load((world.purer / "config.yaml").read_text())
    assert config["method"] == "purer"
    assert config["zoo"] == str(world.zoo)
    assert config["purer"]["iterations"] == 4
    recorded = json.loads((world.purer / "results.json").read_text())
    assert recorded["methods"]["purer"]["seconds"] > 0
    assert (recorded["protocol"], recorded["way"], recorded["members"]) == ("strict", 3, 2)
    assert "torch" in recorded["versions"]
    assert len((world.purer / "metrics.jsonl").read_text().splitlines()) == 4
    page = (world.purer / "report.html").read_text(encoding="utf-8")
    assert "purer: a few-shot learner from 2 classifiers" in page
    assert "Training of purer" in page


def test_a_written_config_repeats_its_run(world: World, tmp_path: Path) -> None:
    assert dfml("train", "--config", world.purer / "config.yaml", "--out", tmp_path / "again").exit_code == 0
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (world.purer / weights).read_bytes()


def test_a_resumed_run_has_the_same_result(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # As after an interruption in the third meta-iteration: everything later is missing.
    assert dfml("train", world.zoo, "--out", run, *SHORT).exit_code == 0
    for later in ("checkpoints/000004", "snapshots/000004"):
        (run / later).rename(tmp_path / later.replace("/", "-"))
    (run / "model.safetensors").unlink()
    assert dfml("train", world.zoo, "--out", run, *SHORT, "--resume").exit_code == 0
    assert (run / "model.safetensors").read_bytes() == (world.purer / "model.safetensors").read_bytes()
    rows = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4]


def test_metrics_are_written_for_tensorboard(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert dfml("train", world.zoo, "--out", run, *SHORT, "--tensorboard").exit_code == 0
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert dfml("train", world.zoo, "--out", run, *SHORT, "--tensorboard", "--resume").exit_code == 0
    assert 'http-equiv="refresh"' not in (run / "report.html").read_text(encoding="utf-8")


def test_a_run_starts_from_a_checkpoint_of_another(world: World, tmp_path: Path) -> None:
    other = (*SHORT, "--set", "purer.curriculum_weight=0")
    start = world.purer / "checkpoints" / "000002"
    assert dfml("train", world.zoo, "--out", tmp_path / "run", *other, "--from", start).exit_code == 0
    rows = [json.loads(line)["iteration"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 4]


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(world: World, tmp_path: Path) -> None:
    more = ("--iterations", "5", "--from", world.purer)
    assert dfml("train", world.zoo, "--out", tmp_path / "run", *SHORT, *more).exit_code == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["start_from"] == str(world.purer / "checkpoints" / "000004")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_without_own_checkpoint_is_resumed_from_the_one_it_started_from(world: World, tmp_path: Path) -> None:
    start, run = world.purer / "checkpoints" / "000002", tmp_path / "run"
    assert dfml("train", world.zoo, "--out", run, *SHORT, "--from", start).exit_code == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["start_from"] == str(start)
    uninterrupted = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    assert dfml("train", world.zoo, "--out", run, *SHORT, "--resume").exit_code == 0
    assert (run / "model.safetensors").read_bytes() == uninterrupted
    rows = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 4]
    other = dfml("train", world.zoo, "--out", run, *SHORT, "--resume", "--from", world.purer / "checkpoints" / "000004")
    assert "start_from" in error(other, 1)


def test_a_written_config_repeats_the_start_from_a_checkpoint(world: World, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    start = world.purer / "checkpoints" / "000002"
    assert dfml("train", world.zoo, "--out", first, *SHORT, "--from", start).exit_code == 0
    assert dfml("train", "--config", first / "config.yaml", "--out", again).exit_code == 0
    assert (again / "config.yaml").read_bytes() == (first / "config.yaml").read_bytes()
    assert (again / "metrics.jsonl").read_text().count("\n") == 2
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    # The message about other settings advises this.
    (first / "model.safetensors").unlink()
    assert dfml("train", "--config", first / "config.yaml", "--out", first, "--resume").exit_code == 0
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_a_written_config_repeats_the_class_identity(world: World, tmp_path: Path) -> None:
    mapping = tmp_path / "same.yaml"
    mapping.write_text(yaml.safe_dump({"member-000": {"old_0": "red"}, "member-001": {"old_2": "red"}}))
    first, again = tmp_path / "first", tmp_path / "again"
    assert dfml("train", world.zoo, "--out", first, *SHORT, "--class-identity", mapping).exit_code == 0
    mapping.unlink()
    assert dfml("train", "--config", first / "config.yaml", "--out", again).exit_code == 0
    assert (again / "config.yaml").read_bytes() == (first / "config.yaml").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert yaml.safe_load((again / "config.yaml").read_text())["classes"].startswith("3 ")


def test_a_learner_is_trained_on_several_zoos(world: World, tmp_path: Path) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    shutil.copytree(world.zoo / "member-001", other / "strange")
    found = results("train", world.zoo, other, "--out", run, *SHORT)
    assert found["members"] == 3
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["zoo"] == [str(world.zoo), str(other)]
    again = tmp_path / "again"
    assert dfml("train", "--config", run / "config.yaml", "--out", again).exit_code == 0
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert dfml("train", world.zoo, other, "--out", run, *SHORT, "--resume").exit_code == 0
    assert "zoo" in error(dfml("train", other, world.zoo, "--out", run, *SHORT, "--resume"), 1)


def test_a_run_is_not_resumed_on_members_with_other_weights(world: World, tmp_path: Path) -> None:
    zoo, run = tmp_path / "zoo", tmp_path / "run"
    shutil.copytree(world.zoo, zoo)
    assert dfml("train", zoo, "--out", run, *SHORT).exit_code == 0
    first, second = (zoo / name / "model.safetensors" for name in ("member-000", "member-001"))
    shutil.copy(second, first)
    assert "members '2 (" in error(dfml("train", zoo, "--out", run, *SHORT, "--resume"), 1)


def test_learners_are_compared_in_pairs_on_the_same_episodes(world: World) -> None:
    learners = (world.purer, world.untrained, f"zoo_embedding:{world.zoo}")
    found = results("evaluate", *learners, world.images, *EPISODES)
    assert list(found["methods"]) == ["purer", "random_init", "zoo_embedding"]
    assert (found["dataset"], found["episodes"], found["protocol"]) == ("colours/test", 6, "strict")
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("purer", "random_init"),
        ("purer", "zoo_embedding"),
        ("random_init", "zoo_embedding"),
    ]
    one, other = (found["methods"][name]["accuracy"] for name in ("purer", "random_init"))
    assert found["pairs"][0]["mean"] == pytest.approx(one - other)
    assert all(0 <= method["accuracy"] <= 1 for method in found["methods"].values())


@pytest.mark.parametrize("name", ["page.html", "table.MD", "table.csv"])
def test_an_evaluation_is_written_as_a_report(world: World, tmp_path: Path, name: str) -> None:
    arguments = (world.purer, world.untrained, world.images, *EPISODES, "--report", tmp_path / name)
    found = results("evaluate", *arguments)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert f"{100 * found['methods']['purer']['accuracy']:.2f}" in text
    assert ("purer - random_init" in text) == (name != "table.csv")
    if name == "table.csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert [(row["method"], row["protocol"], row["shot"]) for row in rows] == [
            (method, "strict", "1") for method in ("purer", "random_init")
        ]
    assert ("Learning curves" in text) is False
    if name == "table.MD":
        assert "| random_init |" in text
        assert "6 episodes, 3-way" in text


@pytest.mark.parametrize("name", ["page.html", "table.md", "table.csv"])
def test_several_data_sets_share_one_table_with_their_mean(world: World, tmp_path: Path, name: str) -> None:
    learners = (world.purer, world.untrained)
    alone = [results("evaluate", *learners, data, *EPISODES) for data in (world.images, "glyphs")]
    found = results("evaluate", *learners, world.images, "glyphs", *EPISODES, "--report", tmp_path / name)
    assert list(found["datasets"]) == ["colours/test", "glyphs/test"]
    for method, values in found["methods"].items():
        parts = [each["methods"][method]["accuracy"] for each in alone]
        assert [each["methods"][method]["accuracy"] for each in found["datasets"].values()] == parts
        assert values["accuracy"] == pytest.approx(sum(parts) / 2)
    means = [values["accuracy"] for values in found["methods"].values()]
    assert found["pairs"][0]["mean"] == pytest.approx(means[0] - means[1])
    assert found["dataset"] == "mean of colours/test, glyphs/test"
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert f"{100 * alone[1]['methods']['purer']['accuracy']:.2f}" in text
    if name == "table.csv":
        assert [row["dataset"] for row in csv.DictReader(text.splitlines())] == 2 * ["colours/test"] + 2 * [
            "glyphs/test"
        ]
    shown = dfml("evaluate", *learners, world.images, "glyphs", *EPISODES).stdout
    assert "colours/test" in shown
    assert f"{100 * means[0]:.2f} ±" in shown


def test_learners_of_one_name_are_shown_with_their_folders(world: World) -> None:
    snapshot = world.purer / "snapshots" / "000004"
    found = results("evaluate", world.purer, snapshot, world.images, *EPISODES)
    assert list(found["methods"]) == [f"purer ({world.purer})", f"purer ({snapshot})"]
    assert found["pairs"][0]["mean"] == 0.0  # the last snapshot equals the learner


def test_a_method_without_training_needs_only_a_zoo(world: World) -> None:
    saved = results("evaluate", world.untrained, world.images, *EPISODES)
    named = results("evaluate", f"random_init:{world.zoo}", world.images, *EPISODES)
    assert named["methods"]["random_init"]["accuracies"] == saved["methods"]["random_init"]["accuracies"]


@pytest.mark.slow
def test_a_method_with_a_short_training_is_trained_first(world: World, tmp_path: Path) -> None:
    short = ("--set", "best_member.snapshot_every=100")
    assert dfml("train", world.zoo, "--out", tmp_path / "run", "--method", "best_member", *short).exit_code == 0
    saved = results("evaluate", tmp_path / "run", world.images, *EPISODES)
    evaluated = dfml("evaluate", f"best_member:{world.zoo}", world.images, *EPISODES, "--json", "-")
    assert f"best_member is trained on {world.zoo} first" in evaluated.stderr
    named = json.loads(evaluated.stdout)
    assert named["methods"]["best_member"]["accuracies"] == saved["methods"]["best_member"]["accuracies"]


def test_learners_of_different_image_sizes_are_compared_on_the_same_episodes(world: World, tmp_path: Path) -> None:
    larger = tmp_path / "larger"
    assert dfml("train", world.zoo, "--out", larger, *SHORT, "--set", "purer.img_size=32").exit_code == 0
    found = results("evaluate", world.untrained, larger, world.images, *EPISODES)
    assert len(found["pairs"]) == 1


def test_the_paper_protocol_reports_the_best_snapshot_with_a_note(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (*SHORT, "--protocol", "paper", "--set", "purer.snapshot_every=2")
    assert dfml("train", world.zoo, "--out", run, *settings).exit_code == 0
    found = results("evaluate", run, world.images, *EPISODES, "--protocol", "paper")["methods"]["purer"]
    assert list(found["snapshots"]) == ["2", "4"]
    assert found["accuracy"] == max(snapshot["accuracy"] for snapshot in found["snapshots"].values())
    assert "maximum over 2 evaluations" in found["note"]
    page = tmp_path / "page.html"
    shown = dfml("evaluate", run, world.images, *EPISODES, "--protocol", "paper", "--report", page)
    assert "maximum over 2 evaluations" in shown.stdout
    assert "Learning curves" in page.read_text(encoding="utf-8")


def test_snapshots_give_a_learning_curve_and_leave_the_result_as_it_is(world: World, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    plain = results("evaluate", world.purer, world.images, *EPISODES)["methods"]["purer"]
    found = results("evaluate", world.purer, world.images, *EPISODES, "--snapshots", "--report", page)
    assert found["methods"]["purer"]["accuracy"] == plain["accuracy"]
    assert found["methods"]["purer"]["note"] == plain["note"]
    assert list(found["methods"]["purer"]["snapshots"]) == ["4"]
    text = page.read_text(encoding="utf-8")
    assert "Learning curves" in text
    assert "The best one is reported" not in text


def test_a_learner_of_the_other_protocol_is_refused_unless_allowed(world: World) -> None:
    arguments = ("evaluate", world.untrained, world.images, *EPISODES, "--protocol", "paper")
    assert "was trained for the protocol 'strict'" in error(dfml(*arguments), 2)
    assert dfml(*arguments, "--allow-other-protocol").exit_code == 0


def test_all_of_a_plain_folder_is_used_and_one_split_of_a_divided_one(world: World) -> None:
    whole = results("evaluate", world.untrained, world.images / "test", *EPISODES)
    assert whole["dataset"] == "test"
    train = results("evaluate", world.untrained, world.images, *EPISODES, "--split", "train")
    assert train["dataset"] == "colours/train"


def test_glyphs_are_a_data_set(world: World) -> None:
    found = results("evaluate", world.untrained, "glyphs", *EPISODES)
    assert found["dataset"] == "glyphs/test"


def test_an_adapted_classifier_predicts_label_and_probability(world: World) -> None:
    pictures = [world.images / "test" / "new_0" / "0.png", world.images / "test" / "new_2" / "1.png"]
    found = results("predict", world.classifier, *pictures, "--top", "9")
    assert [prediction["image"] for prediction in found["predictions"]] == [str(picture) for picture in pictures]
    for prediction in found["predictions"]:
        assert {each["label"] for each in prediction["labels"]} == {"new_0", "new_1", "new_2"}
        probabilities = [each["probability"] for each in prediction["labels"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    shown = dfml("predict", world.classifier, *pictures)
    assert len(shown.stdout.splitlines()) == 2
    assert shown.stdout.startswith(f"{pictures[0]}: new_")


def test_other_images_are_predicted_if_one_cannot_be_read(world: World, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = world.images / "test" / "new_0" / "0.png"
    found = dfml("predict", world.classifier, broken, good, tmp_path / "missing.png", "--json", "-")
    assert found.exit_code == 1
    values = json.loads(found.stdout)
    assert [prediction["image"] for prediction in values["predictions"]] == [str(good)]
    assert [failure["image"] for failure in values["failures"]] == [str(broken), str(tmp_path / "missing.png")]
    assert f"error: cannot decode {broken}" in found.stderr


@pytest.mark.numeric
def test_any_method_adapts(world: World, tmp_path: Path) -> None:
    made = results("adapt", f"zoo_embedding:{world.zoo}", world.images / "test", "--out", tmp_path / "classifier")
    assert made["classes"] == {"new_0": 6, "new_1": 6, "new_2": 6}
    pictures = sorted((world.images / "test").glob("*/*.png"))
    found = results("predict", tmp_path / "classifier", *pictures)
    predicted = [prediction["labels"][0]["label"] for prediction in found["predictions"]]
    correct = [label == picture.parent.name for label, picture in zip(predicted, pictures, strict=True)]
    assert sum(correct) / len(correct) > 0.5  # chance is 1/3; at least 15 of 18 over seeds and instruction sets


def test_a_calibrated_learner_is_compared_with_the_same_learner_without(world: World) -> None:
    """A learner that cannot be calibrated is evaluated without."""
    learners = (world.untrained, f"zoo_embedding:{world.zoo}")
    found = results("evaluate", *learners, world.images, *FEW, "--episodes", "2", "--calibration", "icfil")
    assert list(found["methods"]) == ["random_init", "random_init + icfil", "zoo_embedding"]
    assert (found["pairs"][0]["first"], found["pairs"][0]["second"]) == ("random_init", "random_init + icfil")
    alone = dfml("evaluate", learners[1], world.images, *FEW, "--episodes", "2", "--calibration", "icfil")
    assert "zoo_embedding adapts by a fixed embedding" in error(alone, 1)


@pytest.mark.numeric
def test_a_classifier_can_be_calibrated(world: World, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("plain", "calibrated")]
    for folder, how in zip(folders, ([], ["--calibration", "icfil"]), strict=True):
        results("adapt", world.untrained, world.images / "test", "--out", folder, *how)
    image = world.images / "test" / "new_0" / "0.png"
    plain, calibrated = (results("predict", folder, image)["predictions"][0]["labels"][0] for folder in folders)
    assert plain["probability"] != pytest.approx(calibrated["probability"], abs=1e-4)
