"""A quickstart computes all its parts, and the images that it shows are the newest of each run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfml.demo.quickstart_folder import QuickstartFolder
from dfml.demo.run import train_quickstart_learner
from dfml.training.checkpoint import load_checkpoint
from dfml.zoo import Zoo
from tests.demo.quickstart_small import METHODS, TRAINED, Finished, small


def test_result_is_complete(finished: Finished) -> None:
    result, out, stages = finished
    assert [each.name for each in result.evaluations] == METHODS
    assert stages == list(result.stages)
    assert [each.name for each in result.trained] == list(result.trainings) == TRAINED
    for evaluation, training in zip(result.trained, result.trainings.values(), strict=True):
        assert list(training.curve) == [0, 2, 3]
        assert training.curve[3] is evaluation
        assert [row["iteration"] for row in training.metrics] == [1, 2, 3]
        assert [[each.label for each in classes] for classes in training.recovered] == [
            list(member.labels) for member in result.members
        ]
    stored = result.stored_bytes
    assert stored["zoo_embedding"] > stored["zoo_student"] > stored["purer"] == stored["free"]
    assert stored["zoo_embedding"] == 2 * stored["best_member"]
    assert len(Zoo.open(out / "zoo")) == 2


def test_the_learner_alone_is_that_of_the_whole_quickstart(finished: Finished, tmp_path: Path) -> None:
    stages: list[str] = []
    train_quickstart_learner(
        QuickstartFolder(tmp_path),
        seed=3,
        settings=small(),
        report=lambda stage, seconds, outcome: stages.append(stage),
    )
    assert stages == ["build a zoo", "train zoo_student without data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learner", "zoo"]
    weights = [load_file(folder / "learner" / "model.safetensors") for folder in (tmp_path, finished[1])]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_curve_in_seconds_has_the_points_of_its_meta_iterations(finished: Finished) -> None:
    for training in finished[0].trainings.values():
        seconds = [sum(row["seconds"] for row in training.metrics[:iteration]) for iteration in (0, 2, 3)]
        assert list(training.curve_in_seconds()) == pytest.approx(seconds)
        assert list(training.curve_in_seconds().values()) == list(training.curve.values())


@pytest.mark.parametrize("method", TRAINED)
def test_recovered_images_are_valid(finished: Finished, method: str) -> None:
    for classes in finished[0].trainings[method].recovered:
        for each in classes:
            assert each.recovered.shape == (3, 3, 16, 16)
            assert each.real.shape == (3, 3, 16, 16)
            assert each.recovered.std() > 0
            assert each.recovered.min() >= 0
            assert each.recovered.max() <= 1


def test_images_of_free_are_the_newest_of_its_task_memory(finished: Finished) -> None:
    result, out, _ = finished
    tensors = load_checkpoint(out / "free" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # Two rounds after the warm-up with four images each, in a ring of six slots: the newest image is in slot 1.
    assert tensors["memory.written"].tolist() == [8] * len(tensors["memory.written"])
    names = Zoo.open(out / "zoo").classes.names
    for classes in result.trainings["free"].recovered:
        for each in classes:
            stored = tensors["memory.images"][names.index(each.label)]
            assert torch.equal((each.recovered * 255).round().to(torch.uint8), stored[[1, 0, 5]])


def test_images_of_the_student_are_the_newest_of_its_buffer_without_mixed_images(finished: Finished) -> None:
    result, out, _ = finished
    tensors = load_checkpoint(out / "learner" / "checkpoints" / "000003", torch.device("cpu"))[1].tensors
    # 8 recovered, then twice 8 recovered and 8 mixed images, in a ring of 32 slots: the newest 8 are in slots 0 to 7.
    assert tensors["buffer.written"] == 40
    for classes in result.trainings["zoo_student"].recovered:
        for each in classes:
            same = (each.recovered * 255).round().to(torch.uint8)[:, None] == tensors["buffer.images"]
            slots = [int(slot) for slot in same.flatten(2).all(dim=2).int().argmax(dim=1)]
            assert [slot // 8 for slot in slots] == [3, 3, 1]
            assert same[range(3), slots].all()
    assert len(result.trainings["zoo_student"].recovered) == 2
