"""A training goes on with further members: what the student knows of the old ones stays, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dfml.errors import RunError
from dfml.learners.student import Student
from dfml.methods.free import FREE
from dfml.methods.zoo_student import ZooStudent, ZooStudentRun
from dfml.training.loop import restore
from dfml.training.run_folder import RunFolder
from dfml.zoo import Preprocessing, Zoo
from tests.factories import images, member, write

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "way": 3,
    "iterations": 3,
    "members_per_step": 2,
    "images_per_class": 3,
    "memory": 60,
    "student_steps": 2,
    "batch": 8,
    "precision": "float32",
    "backbone_arguments": {"channels": [8, 8, 8, 8]},
    "inversion": {"confirmed_only": False, "fallback": None, "ei": {"steps": 2, "search_steps": 0}},
    "checkpoint_every": 1,
}
LABELS = {"b": ("ant", "bee", "cat"), "d": ("cat", "dog"), "a": ("elk", "bee"), "c": ("fox", "ant", "gnu", "hen")}
SEEDS = {"b": 1, "d": 2, "a": 3, "c": 4}


def zoo_of(path: Path, names: str) -> Zoo:
    """A zoo with some of the members `a` to `d`; each is the same in every zoo."""
    for name in names:
        if not (path / name).exists():
            preprocessing = Preprocessing(16, (0.1 * SEEDS[name], 0.5, 0.5), (0.25, 0.25, 0.3))
            write(path / name, member(SEEDS[name], LABELS[name], preprocessing))
    return Zoo.open(path)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A finished run on the members `b` and `d`."""
    ZooStudent(**SMALL).fit(zoo_of(tmp_path / "small", "bd"), out=tmp_path / "run", device="cpu")
    return tmp_path / "run"


def grown(run: Path, zoo: Zoo, **settings: Any) -> ZooStudentRun:
    started = ZooStudent(**{**SMALL, "iterations": 6, **settings}).start(zoo, CPU)
    assert isinstance(started, ZooStudentRun)
    assert restore(started, run / "checkpoints" / "000003", CPU) == 3
    return started


def old_columns(run: ZooStudentRun, names: str = "bd") -> torch.Tensor:
    places = {run.zoo.name(index): columns for index, columns in enumerate(run.columns_of_member)}
    return torch.cat([places[name] for name in names])


@pytest.mark.numeric
def test_the_student_predicts_the_same_for_the_members_that_it_knows(tmp_path: Path, trained: Path) -> None:
    before = Student.from_pretrained(trained)
    run = grown(trained, zoo_of(tmp_path / "large", "abcd"))
    assert run.student.preprocessing == before.preprocessing  # the average over members would be another one
    shown = images(5)
    assert isinstance(before, Student)
    expected, found = before.logits(shown), run.student.logits(shown)
    assert found.shape[1] == 11
    assert torch.allclose(found[:, old_columns(run)], expected, atol=1e-5)


@pytest.mark.numeric
def test_the_loss_on_the_images_of_the_buffer_is_unchanged(tmp_path: Path, trained: Path) -> None:
    same, more = (grown(trained, zoo_of(tmp_path / name, name)) for name in ("bd", "abcd"))
    losses = []
    for run in (same, more):
        shown, predictions = run.buffer.get(torch.arange(len(run.buffer)))
        with torch.no_grad():
            logits = run.student.logits(shown)
        losses.append(float(run.student.member_outputs.divergence(predictions, logits, 4.0)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] > 0


def test_images_keep_their_member_and_class_and_have_no_predictions_of_new_members(
    tmp_path: Path, trained: Path
) -> None:
    same, more = (grown(trained, zoo_of(tmp_path / name, name)) for name in ("bd", "abcd"))
    assert torch.equal(same.buffer.images, more.buffer.images)

    def named(run: ZooStudentRun) -> list[tuple[str, str]]:
        pairs = zip(run.buffer.members.tolist(), run.buffer.classes.tolist(), strict=True)
        return [("" if i < 0 else run.zoo.name(i), "" if c < 0 else run.zoo.classes.names[c]) for i, c in pairs]

    assert named(more) == named(same)
    assert any(name for name, _ in named(same))
    columns = old_columns(more)
    new = [column for column in range(11) if column not in columns.tolist()]
    assert bool(more.buffer.log_probabilities[:, new].isnan().all())
    kept = more.buffer.log_probabilities[:, columns]
    assert torch.equal(kept.nan_to_num(), same.buffer.log_probabilities[:, old_columns(same)].nan_to_num())


def test_counts_of_the_agreement_go_with_their_members(tmp_path: Path, trained: Path) -> None:
    same, more = (grown(trained, zoo_of(tmp_path / name, name)) for name in ("bd", "abcd"))
    assert torch.equal(more.agreement.queried[old_columns(more)], same.agreement.queried[old_columns(same)])
    assert int(more.agreement.queried.sum()) == int(same.agreement.queried.sum())
    assert int(more.agreement.pairs[1, 3]) == int(same.agreement.pairs[0, 1])


def test_the_training_goes_on_with_all_members_and_can_be_resumed(tmp_path: Path, trained: Path) -> None:
    large = zoo_of(tmp_path / "large", "abcd")
    settings = {**SMALL, "iterations": 6, "members_per_step": 4}
    ZooStudent(**settings).fit(large, out=tmp_path / "more", start_from=trained, device="cpu")  # the newest checkpoint
    assert [row["iteration"] for row in RunFolder(tmp_path / "more").read_metrics()] == [4, 5, 6]
    learner = Student.from_pretrained(tmp_path / "more")
    assert isinstance(learner, Student)
    assert learner.outputs == (2, 3, 4, 2)
    again = ZooStudent(**settings).start(Zoo.open(tmp_path / "large"), CPU)
    assert isinstance(again, ZooStudentRun)
    assert restore(again, tmp_path / "more" / "checkpoints" / "000006", CPU) == 6
    assert again.student.preprocessing == learner.preprocessing
    assert set(again.buffer.members.tolist()) >= {0, 2}  # images of the new members, too


def test_a_renamed_member_is_known_by_its_weights(tmp_path: Path, trained: Path) -> None:
    zoo_of(tmp_path / "large", "abd")
    (tmp_path / "large" / "b").rename(tmp_path / "large" / "z")
    run = grown(trained, Zoo.open(tmp_path / "large"))
    before = Student.from_pretrained(trained)
    assert isinstance(before, Student)
    assert torch.allclose(run.student.logits(images(2))[:, old_columns(run, "zd")], before.logits(images(2)), atol=1e-5)


def test_members_that_are_missing_or_changed_are_named(tmp_path: Path, trained: Path) -> None:
    zoo_of(tmp_path / "other", "ac")
    write(tmp_path / "other" / "b", member(9, LABELS["b"]))
    with pytest.raises(RunError, match=r"of 2, this zoo lacks b \(it has changed\), d \(it is missing\); restore them"):
        grown(trained, Zoo.open(tmp_path / "other"))


def test_a_method_that_cannot_grow_says_so(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "way": 2,
        "query": 2,
        "iterations": 2,
        "warm_up": 1,
        "members_per_step": 2,
        "images_per_class": 4,
        "memory": 8,
        "replay_steps": 1,
        "replay_tasks": 1,
        "checkpoint_every": 1,
        "inversion": {"confirmed_only": False, "fallback": None, "five": {"width": 8, "latent": 8, "steps": 2}},
        "learner": {"inner_steps": 1},
    }
    first, second = (zoo_of(tmp_path / name, name) for name in ("bd", "abd"))
    FREE(**settings).fit(first, out=tmp_path / "run", device="cpu")
    with pytest.raises(RunError, match=r"other members or classes .* zoo_student continues with further members"):
        FREE(**settings).fit(second, start_from=tmp_path / "run", device="cpu")
