"""Members that only predict: plain callables from outside the package, as teachers and in embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dfml
from dfml.errors import LearnerError, QueryLimitError, ZooError
from dfml.images import resize_and_crop
from dfml.inversion.fidelity import measure
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.zoo import CountedMember, Differentiable, Predicts, Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.members import query_members, teacher_logits
from tests.factories import PREPROCESSING, images, member

LABELS = torch.tensor([0, 1, 0, 1, 1])


@dataclass
class BlackBox:
    """A function of images behind the attributes of `Predicts`."""

    function: Callable[[Tensor], Tensor]
    labels: tuple[str, ...] = ("red", "green", "blue")
    preprocessing: Preprocessing = PREPROCESSING
    source: str = "https://example.org/classify"
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def predict_proba(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        return self.function(images)


def colours(images: Tensor) -> Tensor:
    """Probabilities in proportion to the mean red, green and blue."""
    means = images.mean(dim=(2, 3))
    return means / means.sum(dim=1, keepdim=True)


def test_a_pretrained_classifier_satisfies_both_protocols_and_a_black_box_one() -> None:
    network, black_box = member(0), BlackBox(colours)
    assert isinstance(network, Predicts)
    assert isinstance(network, Differentiable)
    assert isinstance(black_box, Predicts)
    assert not isinstance(black_box, Differentiable)
    counted = CountedMember(network)
    assert isinstance(counted, Predicts)
    assert not isinstance(counted, Differentiable)


def test_the_probabilities_of_a_network_are_the_softmax_of_its_logits_at_any_size() -> None:
    network, shown = member(0), images(5, size=24)
    torch.testing.assert_close(
        network.predict_proba(shown), network.logits(resize_and_crop(shown, network.size)).softmax(dim=1)
    )


def test_teacher_logits_of_a_network_are_its_own_bits() -> None:
    network, shown = member(0), images(5, size=24)
    assert torch.equal(teacher_logits(network, shown), network.predict_logits(shown))


def test_teacher_logits_of_a_black_box_have_its_softmax_and_are_finite() -> None:
    shown = images(6)
    torch.testing.assert_close(teacher_logits(BlackBox(colours), shown).softmax(dim=1), colours(shown))
    certain = BlackBox(lambda batch: torch.eye(3)[torch.arange(len(batch)) % 3])
    logits = teacher_logits(certain, shown)
    assert bool(logits.isfinite().all())
    torch.testing.assert_close(logits.softmax(dim=1), certain.predict_proba(shown))


def test_a_network_behind_probabilities_is_the_same_teacher() -> None:
    network, shown = member(0), images(6)
    for temperature in (1.0, 4.0):
        found = (teacher_logits(CountedMember(network), shown) / temperature).softmax(dim=1)
        torch.testing.assert_close(found, (network.predict_logits(shown) / temperature).softmax(dim=1))


def test_probabilities_of_a_wrong_shape_are_refused() -> None:
    two_columns = BlackBox(lambda batch: torch.full((len(batch), 2), 0.5))
    with pytest.raises(
        ZooError, match=r"example\.org/classify: expected probabilities of shape \(4, 3\), found shape \(4, 2\)"
    ):
        teacher_logits(two_columns, images(4))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([-0.1, 0.5, 0.6], r"-0\.1 as the smallest value and sums from 1 to 1"),
        ([0.2, 0.3, 0.48], r"0\.2 as the smallest value and sums from 0\.98 to 0\.98"),
        ([20.0, 30.0, 50.0], "20 as the smallest value and sums from 100 to 100"),  # percentages
        ([math.nan, 0.5, 0.5], "nan as the smallest value"),
    ],
)
def test_values_that_are_no_probabilities_are_refused(row: list[float], found: str) -> None:
    black_box = BlackBox(lambda batch: torch.tensor([row] * len(batch)))
    with pytest.raises(ZooError, match=rf"example\.org/classify: expected probabilities, .* found {found}"):
        teacher_logits(black_box, images(4))


def test_rounded_probabilities_are_accepted() -> None:
    row = torch.tensor([0.33, 0.33, 0.33])
    logits = teacher_logits(BlackBox(lambda batch: row.expand(len(batch), 3)), images(4))
    assert torch.equal(logits, row.log().expand(4, 3))


def test_all_members_are_queried_side_by_side() -> None:
    network, black_box, shown = member(0), BlackBox(colours), images(4, size=20)
    found = query_members(Zoo.of([network, black_box]), shown)
    assert torch.equal(found, torch.cat([network.predict_logits(shown), teacher_logits(black_box, shown)], dim=1))


def test_a_limit_is_kept_before_anything_is_sent() -> None:
    black_box = BlackBox(colours)
    counted = CountedMember(black_box, limit=10)
    assert torch.equal(counted.predict_proba(images(7)), colours(images(7)))
    with pytest.raises(QueryLimitError, match=r"classify: 4 further images would exceed its limit of 10 \(7 are used"):
        counted.predict_proba(images(4))
    assert (counted.queried, [shape[0] for shape in black_box.shapes]) == (7, [7])
    counted.predict_proba(images(3))
    assert counted.queried == 10
    unlimited = CountedMember(black_box)
    unlimited.predict_proba(images(50))
    assert unlimited.queried == 50


def mixed_zoo() -> Zoo:
    return Zoo.of([member(0), BlackBox(colours), member(1), BlackBox(colours)])


def test_a_zoo_holds_a_mix_of_members() -> None:
    zoo = mixed_zoo()
    zoo.vet()
    assert zoo.to(torch.device("cpu")) is zoo
    assert sorted(zoo.groups().values()) == [[0, 2], [1], [3]]
    assert zoo.classes.names == ("a", "b", "c", "red", "green", "blue")
    assert zoo.preprocessing() == PREPROCESSING
    assert isinstance(zoo.classifier(2), PretrainedClassifier)
    with pytest.raises(ZooError, match=r"member-001 .* has no network"):
        zoo.classifier(1)
    with pytest.raises((ZooError, TypeError), match=r"Tensor|Predicts"):  # TypeError where types are checked
        Zoo.of([member(0), torch.zeros(3)])  # type: ignore[list-item]


def test_the_digest_depends_on_a_black_boxs_source_labels_and_preprocessing() -> None:
    larger = Preprocessing(32, PREPROCESSING.mean, PREPROCESSING.std)
    boxes = [
        BlackBox(colours),
        BlackBox(colours, source="elsewhere"),
        BlackBox(colours, labels=("x", "y", "z")),
        BlackBox(colours, preprocessing=larger),
    ]
    digests = [Zoo.of([member(0), box]).digest() for box in boxes]
    assert len(set(digests)) == 4
    assert Zoo.of([member(0), BlackBox(colours)]).digest() == digests[0]


def test_inspection_lists_black_boxes_without_querying_them() -> None:
    zoo = mixed_zoo()
    report = inspect_zoo(zoo)
    assert report.usable
    assert [row.name for row in report.members] == [f"member-{index:03d}" for index in range(4)]
    assert [row.parameters is None for row in report.members] == [False, True, False, True]
    assert report.members[1].labels == ("red", "green", "blue")
    assert "were not examined" in report.members[1].warnings[0]
    assert report.merges["red"] == ["member-001", "member-003"]
    box = zoo[1]
    assert isinstance(box, BlackBox)
    assert box.shapes == []


def test_the_fidelity_of_a_black_boxs_images_is_its_agreement() -> None:
    shown = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 16, 16)  # red, green and blue
    measured = measure(Zoo.of([BlackBox(colours), BlackBox(colours)]), 0, shown, torch.tensor([0, 1, 1]))
    assert (measured.agreement, measured.other_agreement) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_a_black_box_is_a_teacher_of_the_student() -> None:
    black_box = BlackBox(colours)
    counted = CountedMember(black_box, limit=1000)
    quick: dict[str, Any] = {
        "inversion": {"engine": "ei", "ei": {"start": "dead_leaves", "steps": 1, "search_steps": 0}}
    }
    settings: dict[str, Any] = {"iterations": 2, "student_steps": 2, "images_per_class": 2, "batch": 8, **quick}
    learner = dfml.ZooStudent(backbone="conv4", **settings).fit(Zoo.of([member(0), counted, member(1)]), device="cpu")
    assert learner.adapt(images(5), LABELS).predict_proba(images(3, 1)).shape == (3, 2)
    assert counted.queried == sum(shape[0] for shape in black_box.shapes) > 0


def test_a_teacher_whose_limit_is_reached_is_left_out_and_the_training_goes_on() -> None:
    black_box = BlackBox(colours)
    counted = CountedMember(black_box, limit=10)
    method = dfml.ZooStudent(
        backbone="conv4",
        iterations=4,
        student_steps=2,
        images_per_class=2,
        batch=8,
        inversion={"engine": "ei", "ei": {"start": "dead_leaves", "steps": 1, "search_steps": 0}},
    )
    run = method.start(Zoo.of([member(0), counted]), torch.device("cpu"))
    messages: list[str] = []
    for iteration in range(1, 5):
        run.step(iteration)
        messages += run.pop_messages()
    said = [message for message in messages if message.startswith("member-001 is not queried any more")]
    assert len(said) == 1
    assert "its limit leaves" in said[0]
    assert 0 < counted.queried == sum(shape[0] for shape in black_box.shapes) <= 10


@pytest.mark.parametrize("representation", ["probabilities", "centred"])
def test_a_black_box_is_a_part_of_an_embedding(representation: Any) -> None:
    network, black_box = member(0), BlackBox(colours)
    learner = dfml.ZooEmbedding(representation=representation).fit(Zoo.of([network, black_box]), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    shown = images(5)
    alone = ZooEmbeddingLearner([network], PREPROCESSING, representation=representation).embed(shown)
    part = colours(shown)
    if representation == "centred":
        part = part.sqrt() / part.sqrt().sum(dim=1, keepdim=True) - 1 / 3  # a temperature of 2
    torch.testing.assert_close(learner.embed(shown), torch.cat([alone, part], dim=1))
    assert learner.adapt(shown, LABELS).predict_proba(images(3, 1)).shape == (3, 2)


@pytest.mark.parametrize("representation", ["logits", "features"])
def test_an_embedding_of_logits_or_features_names_the_black_box(representation: Any) -> None:
    with pytest.raises(ZooError, match=rf"classify only predicts .* is '{representation}'; choose") as caught:
        dfml.ZooEmbedding(representation=representation).fit(mixed_zoo(), device="cpu")
    assert "\n" not in str(caught.value)


def test_an_embedding_with_a_black_box_cannot_be_saved(tmp_path: Path) -> None:
    learner = dfml.ZooEmbedding().fit(Zoo.of([BlackBox(colours)]), device="cpu")
    with pytest.raises(LearnerError, match=r"found https://example\.org/classify, which a saved zoo embedding cannot"):
        learner.save_pretrained(tmp_path)
