from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml.data.glyphs import glyphs
from dfml.errors import LearnerError
from dfml.evaluation.protocol import compare, evaluate
from dfml.inversion.loss import InversionWeights
from dfml.learners import ICFIL, ICFILConfig, LearnerConfig, MetaLearner, create_learner
from dfml.learners.calibration import contrastive_loss, invert_adapted
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network_classifier import NetworkClassifier
from dfml.learners.student import Student
from dfml.methods.purer import PURER
from tests.factories import PREPROCESSING, coloured_dataset, images, load_episode

from .reference import contrast_by_hand, icfil

WAY = 3
KINDS = ("maml", "anil", "protonet")
FIXED_VIEW = InversionWeights(jitter=0, batch_norm=0.1, total_variation=0.01, l2=0.01)
SHORT = ICFILConfig(
    images_per_class=2, inversion_steps=3, steps=2, lr=0.05, temperature=0.1, head=1.0, weights=FIXED_VIEW
)


def small_learner(
    kind: str = "maml", protocol: str = "strict", *, double: bool = False, **settings: object
) -> GradientLearner:
    config = LearnerConfig(kind=kind, head_start="random", inner_lr=0.05, **settings)  # type: ignore[arg-type]
    learner = create_learner(config, PREPROCESSING, way=WAY, protocol=protocol, seed=1)  # type: ignore[arg-type]
    if double:
        learner.parameters = {name: value.double() for name, value in learner.parameters.items()}
        learner.running_statistics = {name: value.double() for name, value in learner.running_statistics.items()}
    return learner


def support(seed: int, *counts: int, double: bool = False) -> tuple[Tensor, Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return images(len(labels), seed, dtype=torch.float64 if double else torch.float32), labels


def calibrated(
    learner: GradientLearner, config: ICFILConfig, *supports: tuple[Tensor, Tensor]
) -> list[NetworkClassifier]:
    found = ICFIL(config).calibrate(learner, [learner.adapt(*each) for each in supports], supports)
    return [each for each in found if isinstance(each, NetworkClassifier)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"contrast": 0.0}, {"head": 0.0}, {"inversion_steps": 0}])
@pytest.mark.numeric
def test_tasks_calibrated_together_equal_the_plain_reference(kind: str, settings: dict[str, float]) -> None:
    learner = small_learner(kind, double=True)
    config = SHORT.model_copy(update=settings)
    supports = [support(seed, 2, 2, 2, double=True) for seed in (3, 4)]
    for found, each in zip(calibrated(learner, config, *supports), supports, strict=True):
        before = learner.adapt(*each)
        assert isinstance(before, NetworkClassifier)
        weights, recorded = icfil(learner, before, *each, config)
        for name, value in weights.items():
            torch.testing.assert_close(found.parameters[name], value, atol=1e-9, rtol=1e-6, msg=name)
        assert found.statistics is not None
        means = {name: value for name, value in found.statistics.items() if name.endswith(".mean")}
        expected = sorted((x.mean(dim=(0, 2, 3)) for x in recorded), key=lambda mean: mean.sum().item())
        for mean, same in zip(sorted(means.values(), key=lambda mean: mean.sum().item()), expected, strict=True):
            torch.testing.assert_close(mean, same)


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_protonet_predicts_by_the_prototypes_of_the_calibrated_backbone(protocol: str) -> None:
    learner, (support_images, labels), query = (
        small_learner("protonet", protocol, double=True),
        support(1, 2, 1, 3, double=True),
        5,
    )
    (found,) = calibrated(learner, SHORT, (support_images, labels))
    before = learner.adapt(support_images, labels)
    assert isinstance(before, NetworkClassifier)
    assert not torch.allclose(found.parameters["head.weight"], before.parameters["head.weight"])
    features, statistics = learner.network.features(found.parameters, PREPROCESSING.normalise(support_images))
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(WAY)])
    shown = images(query, seed=9, dtype=torch.float64)
    used = statistics if protocol == "strict" else None
    embedded, _ = learner.network.features(found.parameters, PREPROCESSING.normalise(shown), used)
    expected = (-(torch.cdist(embedded, means) ** 2)).softmax(dim=1)
    torch.testing.assert_close(found.predict_proba(shown), expected)


@pytest.mark.numeric
def test_tasks_of_many_shapes_do_not_depend_on_each_other() -> None:
    """Uneven support sets, another way than trained."""
    learner = small_learner()
    supports = [support(1, 1, 1, 1), support(2, 2, 1, 3), support(3, 1, 1, 1), support(4, 1, 2, 1, 2, 3)]
    config = SHORT.model_copy(update={"weights": InversionWeights()})
    together, query = calibrated(learner, config, *supports), images(4, seed=9)
    for found, each in zip(together, supports, strict=True):
        (alone,) = calibrated(learner, config, each)
        assert found.labels == alone.labels
        torch.testing.assert_close(found.predict_proba(query), alone.predict_proba(query), atol=1e-5, rtol=1e-4)


@pytest.mark.numeric
def test_adapt_takes_a_calibration_and_changes_nothing_else() -> None:
    learner, (support_images, labels) = small_learner(), support(1, 2, 2, 2)
    weights = {name: value.clone() for name, value in learner.parameters.items()}
    plain, query = learner.adapt(support_images, labels), images(5, seed=9)
    expected = plain.predict_proba(query)
    found = learner.adapt(support_images, labels, ("a", "b", "c"), calibration=ICFIL(SHORT))
    assert found.labels == ("a", "b", "c")
    assert not torch.allclose(found.predict_proba(query), expected, atol=1e-3)
    assert torch.equal(learner.adapt(support_images, labels).predict_proba(query), expected)
    assert torch.equal(plain.predict_proba(query), expected)
    assert all(torch.equal(value, learner.parameters[name]) for name, value in weights.items())


@pytest.mark.numeric
def test_strict_predictions_do_not_depend_on_other_images_and_paper_predictions_do() -> None:
    support_images, query = support(1, 2, 2, 2), images(6, seed=9)
    for protocol, alone in (("strict", True), ("paper", False)):
        found = small_learner(protocol=protocol).adapt(*support_images, calibration=ICFIL(SHORT))
        together, single = found.predict_proba(query), found.predict_proba(query, batch_size=1)
        assert torch.allclose(together, single, atol=1e-5) == alone


@pytest.mark.numeric
def test_shrinkage_interpolates_towards_the_stored_statistics() -> None:
    each = support(1, 2, 2, 2)
    (support_only,), (stored_only,) = (
        calibrated(small_learner(statistics_shrinkage=shrinkage), SHORT, each) for shrinkage in (0.0, 1.0)
    )
    learner = small_learner()
    assert support_only.statistics is not None
    assert stored_only.statistics is not None
    for name, value in stored_only.statistics.items():
        torch.testing.assert_close(value, learner.running_statistics[name])
        assert not torch.allclose(support_only.statistics[name], value)


@pytest.mark.parametrize("start", ["noise", "dead_leaves"])
@pytest.mark.numeric
def test_synthetic_images_are_classified_as_their_labels(start: str) -> None:
    learner, each = small_learner(test_inner_steps=20), support(5, 3, 3, 3)
    adapted = learner.adapt(*each)
    assert isinstance(adapted, NetworkClassifier)
    stacked = {name: value[None] for name, value in adapted.parameters.items()}
    labels = torch.arange(WAY).repeat_interleave(4)
    config = ICFILConfig(start=start, inversion_steps=60)  # type: ignore[arg-type]
    for steps, correct in ((0, False), (60, True)):
        settings = config.model_copy(update={"inversion_steps": steps})
        (found,) = invert_adapted(
            learner.network, PREPROCESSING, stacked, PREPROCESSING.normalise(each[0])[None], labels, settings
        )
        features, _ = learner.network.features(adapted.parameters, found)
        logits = torch.nn.functional.linear(
            features, adapted.parameters["head.weight"], adapted.parameters["head.bias"]
        )
        assert ((logits.argmax(dim=1) == labels).float().mean().item() > 0.9) == correct


@given(st.lists(st.integers(0, 2), max_size=5), st.lists(st.integers(0, 2), max_size=5), st.integers(0, 99))
def test_contrastive_loss_is_supervised_infonce_in_both_directions(
    first: list[int], second: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    first_labels, second_labels = (torch.tensor([0, 1, 2, *labels]) for labels in (first, second))
    anchors, others = (
        torch.randn(len(of), 4, generator=generator, dtype=torch.float64) for of in (first_labels, second_labels)
    )
    found = contrastive_loss(anchors, first_labels, others, second_labels, 0.5)
    torch.testing.assert_close(found, contrast_by_hand(anchors, first_labels, others, second_labels, 0.5))
    assert found >= 0
    corners = torch.eye(3, 4, dtype=torch.float64)
    assert contrastive_loss(corners[first_labels], first_labels, corners[second_labels], second_labels, 0.01) < 1e-9


@pytest.mark.numeric
def test_evaluate_calibrates_several_episodes_in_one_call() -> None:
    learner, data = small_learner(), coloured_dataset(classes=4, per_class=8)
    learner.name = "mine"
    settings = {"way": WAY, "shot": 2, "query": 3, "episodes": 10}
    plain = evaluate(learner, data, **settings)  # type: ignore[arg-type]
    found = evaluate(learner, data, calibration=ICFIL(SHORT), **settings)  # type: ignore[arg-type]
    assert found.name == "mine + icfil"
    assert compare(found, plain).first == "mine + icfil"
    assert len(found.accuracies) == 10
    for index in (0, 9):
        task = load_episode(data, WAY, 2, 3, 0, index)
        classifier = learner.adapt(task.support_images, task.support_labels, calibration=ICFIL(SHORT))
        predicted = classifier.predict_proba(task.query_images).argmax(dim=1)
        accuracy = (predicted == task.query_labels).double().mean().item()
        # One of the nine queries may lie on the decision boundary.
        assert found.accuracies[index] == pytest.approx(accuracy, abs=0.12)


def test_learners_with_a_fixed_embedding_are_refused_by_name() -> None:
    student = Student.untrained("conv4", {}, [3, 3], PREPROCESSING, name="my student")
    with pytest.raises(LearnerError, match=r"gradient-adapted.*my student"):
        student.adapt(*support(1, 1, 1), calibration=ICFIL())
    with pytest.raises(LearnerError, match="my student"):
        evaluate(student, coloured_dataset(), way=2, episodes=2, calibration=ICFIL())


def test_a_calibration_of_the_learner_is_applied_and_saved_with_it(tmp_path: Path) -> None:
    plain = small_learner("maml")
    own = small_learner("maml", calibration=SHORT)
    images, labels = support(3, 2, 2, 2)
    expected = plain.adapt(images, labels, calibration=ICFIL(SHORT))
    own.save_pretrained(tmp_path / "learner")
    for learner in (own, MetaLearner.from_pretrained(tmp_path / "learner")):
        found = learner.adapt(images, labels)
        assert torch.equal(found.predict_proba(images), expected.predict_proba(images))
        assert found.provenance["calibration"] == "icfil"
        without = learner.adapt(images, labels, calibration=None)
        assert torch.equal(without.predict_proba(images), plain.adapt(images, labels).predict_proba(images))
        assert "calibration" not in without.provenance
    assert plain.calibration is None


def test_evaluation_applies_the_calibration_of_the_learner_unless_told_otherwise() -> None:
    plain, own = small_learner("maml"), small_learner("maml", calibration=SHORT)
    settings: dict[str, Any] = {"way": 2, "query": 2, "episodes": 2}
    data = glyphs("test", per_class=4)
    by_itself, told = evaluate(own, data, **settings), evaluate(plain, data, calibration=ICFIL(SHORT), **settings)
    assert by_itself.accuracies == told.accuracies
    assert (by_itself.name, told.name) == ("maml", "maml + icfil")
    without = evaluate(own, data, calibration=None, **settings)
    assert without.accuracies == evaluate(plain, data, **settings).accuracies


def test_purer_calibrates_the_head_as_released_the_backbone_by_default_and_nothing_on_a_cpu() -> None:
    found = {
        name: PURER(**PURER.preset_settings(name)).config.learner.calibration for name in ("released", "cpu", None)
    }
    assert found == {"released": ICFILConfig(head=1.0), "cpu": None, None: ICFILConfig()}
