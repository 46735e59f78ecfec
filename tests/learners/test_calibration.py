from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml.errors import LearnerError
from dfml.evaluation.protocol import compare, evaluate
from dfml.inversion.objectives import InversionWeights
from dfml.learners import ICFIL, ICFILConfig, LearnerConfig, create_learner
from dfml.learners.calibration import contrast, recall
from dfml.learners.classifier import NetworkClassifier
from dfml.learners.gradient import GradientLearner
from dfml.learners.student import Student
from tests.factories import PREPROCESSING, coloured_dataset, images, load_episode

from .reference import contrast_by_hand, icfil

WAY = 3
KINDS = ("maml", "anil", "protonet")
STILL = InversionWeights(jitter=0, batch_norm=0.1, total_variation=0.01, l2=0.01)
SHORT = ICFILConfig(images_per_class=2, inversion_steps=3, steps=2, lr=0.05, temperature=0.1, head=1.0, weights=STILL)


def learner(
    kind: str = "maml", protocol: str = "strict", *, double: bool = False, **settings: object
) -> GradientLearner:
    config = LearnerConfig(kind=kind, head_start="random", inner_lr=0.05, **settings)  # type: ignore[arg-type]
    made = create_learner(config, PREPROCESSING, way=WAY, protocol=protocol, seed=1)  # type: ignore[arg-type]
    if double:
        made.parameters = {name: value.double() for name, value in made.parameters.items()}
        made.stored = {name: value.double() for name, value in made.stored.items()}
    return made


def support(seed: int, *counts: int, double: bool = False) -> tuple[Tensor, Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return images(len(labels), seed, dtype=torch.float64 if double else torch.float32), labels


def calibrated(made: GradientLearner, config: ICFILConfig, *supports: tuple[Tensor, Tensor]) -> list[NetworkClassifier]:
    found = ICFIL(config).calibrate(made, [made.adapt(*each) for each in supports], supports)
    return [each for each in found if isinstance(each, NetworkClassifier)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"contrast": 0.0}, {"head": 0.0}, {"inversion_steps": 0}])
@pytest.mark.numeric
def test_several_tasks_at_once_equal_their_plain_twins(kind: str, settings: dict[str, float]) -> None:
    made = learner(kind, double=True)
    config = SHORT.model_copy(update=settings)
    supports = [support(seed, 2, 2, 2, double=True) for seed in (3, 4)]
    for found, each in zip(calibrated(made, config, *supports), supports, strict=True):
        before = made.adapt(*each)
        assert isinstance(before, NetworkClassifier)
        weights, seen = icfil(made, before, *each, config)
        for name, value in weights.items():
            torch.testing.assert_close(found.parameters[name], value, atol=1e-9, rtol=1e-6, msg=name)
        assert found.statistics is not None
        means = {name: value for name, value in found.statistics.items() if name.endswith(".mean")}
        expected = sorted((x.mean(dim=(0, 2, 3)) for x in seen), key=lambda mean: mean.sum().item())
        for mean, same in zip(sorted(means.values(), key=lambda mean: mean.sum().item()), expected, strict=True):
            torch.testing.assert_close(mean, same)


@pytest.mark.numeric
def test_tasks_of_many_shapes_do_not_depend_on_each_other() -> None:
    """Uneven support sets, another way than trained."""
    made = learner()
    supports = [support(1, 1, 1, 1), support(2, 2, 1, 3), support(3, 1, 1, 1), support(4, 1, 2, 1, 2, 3)]
    config = SHORT.model_copy(update={"weights": InversionWeights()})
    together, query = calibrated(made, config, *supports), images(4, seed=9)
    for found, each in zip(together, supports, strict=True):
        (alone,) = calibrated(made, config, each)
        assert found.labels == alone.labels
        torch.testing.assert_close(found.predict_proba(query), alone.predict_proba(query), atol=1e-5, rtol=1e-4)


@pytest.mark.numeric
def test_adapt_takes_a_calibration_and_changes_nothing_else() -> None:
    made, (pictures, labels) = learner(), support(1, 2, 2, 2)
    weights = {name: value.clone() for name, value in made.parameters.items()}
    plain, query = made.adapt(pictures, labels), images(5, seed=9)
    answers = plain.predict_proba(query)
    found = made.adapt(pictures, labels, ("a", "b", "c"), calibration=ICFIL(SHORT))
    assert found.labels == ("a", "b", "c")
    assert not torch.allclose(found.predict_proba(query), answers, atol=1e-3)
    assert torch.equal(made.adapt(pictures, labels).predict_proba(query), answers)
    assert torch.equal(plain.predict_proba(query), answers)
    assert all(torch.equal(value, made.parameters[name]) for name, value in weights.items())


@pytest.mark.numeric
def test_strict_answers_do_not_depend_on_other_images_and_paper_answers_do() -> None:
    pictures, query = support(1, 2, 2, 2), images(6, seed=9)
    for protocol, alone in (("strict", True), ("paper", False)):
        found = learner(protocol=protocol).adapt(*pictures, calibration=ICFIL(SHORT))
        together, single = found.predict_proba(query), found.predict_proba(query, batch_size=1)
        assert torch.allclose(together, single, atol=1e-5) == alone


@pytest.mark.numeric
def test_shrinkage_still_draws_statistics_to_the_learned_ones() -> None:
    each = support(1, 2, 2, 2)
    (free,), (drawn,) = (calibrated(learner(statistics_shrinkage=share), SHORT, each) for share in (0.0, 1.0))
    made = learner()
    assert free.statistics is not None
    assert drawn.statistics is not None
    for name, value in drawn.statistics.items():
        torch.testing.assert_close(value, made.stored[name])
        assert not torch.allclose(free.statistics[name], value)


@pytest.mark.parametrize("start", ["noise", "leaves"])
@pytest.mark.numeric
def test_recalled_images_are_what_the_network_takes_for_its_classes(start: str) -> None:
    made, each = learner(test_inner_steps=20), support(5, 3, 3, 3)
    adapted = made.adapt(*each)
    assert isinstance(adapted, NetworkClassifier)
    stacked = {name: value[None] for name, value in adapted.parameters.items()}
    labels = torch.arange(WAY).repeat_interleave(4)
    config = ICFILConfig(start=start, inversion_steps=60)  # type: ignore[arg-type]
    for steps, right in ((0, False), (60, True)):
        settings = config.model_copy(update={"inversion_steps": steps})
        (found,) = recall(
            made.network, PREPROCESSING, stacked, PREPROCESSING.normalise(each[0])[None], labels, settings
        )
        features, _ = made.network.features(adapted.parameters, found)
        answers = torch.nn.functional.linear(
            features, adapted.parameters["head.weight"], adapted.parameters["head.bias"]
        )
        assert ((answers.argmax(dim=1) == labels).float().mean().item() > 0.9) == right


@given(st.lists(st.integers(0, 2), max_size=5), st.lists(st.integers(0, 2), max_size=5), st.integers(0, 99))
def test_contrast_is_supervised_infonce_in_both_directions(first: list[int], second: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    of_first, of_second = (torch.tensor([0, 1, 2, *labels]) for labels in (first, second))
    these, those = (torch.randn(len(of), 4, generator=draw, dtype=torch.float64) for of in (of_first, of_second))
    found = contrast(these, of_first, those, of_second, 0.5)
    torch.testing.assert_close(found, contrast_by_hand(these, of_first, those, of_second, 0.5))
    assert found >= 0
    corners = torch.eye(3, 4, dtype=torch.float64)
    assert contrast(corners[of_first], of_first, corners[of_second], of_second, 0.01) < 1e-9


@pytest.mark.numeric
def test_evaluate_calibrates_several_episodes_in_a_call() -> None:
    made, data = learner(), coloured_dataset(classes=4, per_class=8)
    made.name = "mine"
    settings = {"way": WAY, "shot": 2, "query": 3, "episodes": 10}
    plain = evaluate(made, data, **settings)  # type: ignore[arg-type]
    found = evaluate(made, data, calibration=ICFIL(SHORT), **settings)  # type: ignore[arg-type]
    assert found.name == "mine + icfil"
    assert compare(found, plain).first == "mine + icfil"
    assert len(found.accuracies) == 10
    for index in (0, 9):
        task = load_episode(data, WAY, 2, 3, 0, index)
        classifier = made.adapt(task.support_images, task.support_labels, calibration=ICFIL(SHORT))
        right = (classifier.predict(task.query_images) == task.query_labels).double().mean().item()
        assert found.accuracies[index] == pytest.approx(right, abs=0.12)  # one of nine may sit on the border


def test_learners_with_a_fixed_embedding_are_refused_by_name() -> None:
    student = Student.untrained("conv4", {}, [3, 3], PREPROCESSING, name="my student")
    with pytest.raises(LearnerError, match=r"gradient-adapted.*my student"):
        student.adapt(*support(1, 1, 1), calibration=ICFIL())
    with pytest.raises(LearnerError, match="my student"):
        evaluate(student, coloured_dataset(), way=2, episodes=2, calibration=ICFIL())
