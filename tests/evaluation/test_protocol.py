from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch

from dfml.errors import DataError, LearnerError, ProtocolError, UsageError
from dfml.evaluation import evaluate, evaluate_snapshots
from dfml.evaluation.protocol import compare, draw_episode
from dfml.evaluation.snapshots import best_snapshot
from dfml.learners import LearnerConfig, MetaLearner, create_learner
from dfml.learners.classifier import FewShotClassifier
from dfml.methods import METHODS
from tests.factories import PREPROCESSING, coloured_dataset, images, load_episode, zoo

DATA = coloured_dataset(classes=6, per_class=20)
QUICK = {"way": 3, "shot": 2, "query": 5, "episodes": 12}


def protonet(protocol: str = "strict", seed: int = 0) -> MetaLearner:
    return create_learner(LearnerConfig(kind="protonet"), PREPROCESSING, way=3, protocol=protocol, seed=seed)  # type: ignore[arg-type]


def test_support_and_query_never_share_an_image_and_labels_follow_the_classes() -> None:
    for index in range(50):
        support, query = draw_episode(DATA, 3, 2, 5, 0, index)
        assert not set(support.tolist()) & set(query.tolist())
        assert len(set(support.tolist()) | set(query.tolist())) == 3 * (2 + 5)
        classes = DATA.labels[support].view(3, 2)[:, 0]
        assert torch.equal(DATA.labels[query], classes.repeat_interleave(5))


@pytest.mark.numeric
def test_accuracy_and_interval_are_those_of_the_episodes() -> None:
    found = evaluate(protonet(), DATA, **QUICK)  # type: ignore[arg-type]
    by_hand = []
    for index in range(12):
        task = load_episode(DATA, 3, 2, 5, 0, index)
        answer = protonet().adapt(task.support_images, task.support_labels).predict(task.query_images)
        by_hand.append((answer == task.query_labels).double().mean().item())
    assert found.accuracies == pytest.approx(by_hand)
    assert found.accuracy == pytest.approx(statistics.mean(by_hand))
    assert found.ci == pytest.approx(1.96 * statistics.stdev(by_hand) / math.sqrt(12))
    assert found.accuracy > 0.6  # colours are easy, even untrained


def test_no_episode_is_no_evaluation() -> None:
    with pytest.raises(UsageError, match="at least one episode, found episodes=0"):
        evaluate(protonet(), DATA, **{**QUICK, "episodes": 0})  # type: ignore[arg-type]


def test_an_episode_is_the_same_whatever_the_learner_and_the_number_of_episodes() -> None:
    short = evaluate(protonet(), DATA, **{**QUICK, "episodes": 5})  # type: ignore[arg-type]
    long = evaluate(protonet(), DATA, **QUICK)  # type: ignore[arg-type]
    assert short.accuracies == long.accuracies[:5]
    other = evaluate(protonet(), DATA, **QUICK, seed=1)  # type: ignore[arg-type]
    assert other.accuracies != long.accuracies


@pytest.mark.numeric
def test_embedding_every_image_once_gives_what_adapting_gives() -> None:
    learner = METHODS["zoo_embedding"]().fit(zoo(3), device="cpu")
    fast = evaluate(learner, DATA, **QUICK)  # type: ignore[arg-type]

    class Slow(MetaLearner):
        name, way, protocol, preprocessing = "slow", 3, "any", PREPROCESSING

        def fit_support(self, *arguments: object) -> FewShotClassifier:
            return learner.fit_support(*arguments)  # type: ignore[arg-type]

        contents = rebuild = to = None  # type: ignore[assignment]

    slow = evaluate(Slow(), DATA, **QUICK)  # type: ignore[arg-type]
    assert fast.accuracies == slow.accuracies


def test_learners_are_compared_in_pairs() -> None:
    first, second = (evaluate(protonet(seed=seed), DATA, **QUICK) for seed in (0, 1))  # type: ignore[arg-type]
    difference = compare(first, second)
    deltas = [a - b for a, b in zip(first.accuracies, second.accuracies, strict=True)]
    assert difference.mean == pytest.approx(statistics.mean(deltas))
    assert difference.ci == pytest.approx(1.96 * statistics.stdev(deltas) / math.sqrt(12))
    other = evaluate(protonet(), DATA, **{**QUICK, "shot": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different episodes"):
        compare(first, other)


def test_a_learner_of_the_other_protocol_is_refused_unless_asked_for() -> None:
    with pytest.raises(ProtocolError, match="trained for the protocol 'paper', not 'strict'"):
        evaluate(protonet("paper"), DATA, **QUICK)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="trained for the protocol 'strict', not 'paper'"):
        evaluate(protonet("strict"), DATA, **QUICK, protocol="paper")  # type: ignore[arg-type]
    evaluate(protonet("paper"), DATA, **QUICK, allow_other_protocol=True)  # type: ignore[arg-type]
    evaluate(METHODS["zoo_embedding"]().fit(zoo(2), device="cpu"), DATA, **QUICK, protocol="paper")  # type: ignore[arg-type]


def test_too_few_classes_or_images_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"colours has 6 classes, but --way asks for 7"):
        evaluate(protonet(), DATA, way=7, shot=1, query=5)
    with pytest.raises(DataError, match=r"class colour 0 of colours has 20 images, but shot \+ query need 21"):
        evaluate(protonet(), DATA, way=3, shot=6, query=15)


def test_a_result_holds_what_its_reader_needs() -> None:
    result = evaluate(protonet(), DATA, **QUICK).as_dict()  # type: ignore[arg-type]
    assert {
        "accuracy",
        "ci",
        "protocol",
        "way",
        "shot",
        "query",
        "seed",
        "dataset",
        "seconds",
        "versions",
    } <= result.keys()
    assert result["adapt_ms"] > 0
    assert result["predict_ms"] > 0
    assert result["episodes"] == 12


def test_the_papers_figure_is_the_best_snapshot_and_says_so(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        protonet("paper", seed=iteration).save_pretrained(tmp_path / "snapshots" / f"{iteration:06d}")
    found = evaluate_snapshots(tmp_path, DATA, protocol="paper", **QUICK)
    assert list(found) == [5, 10, 15]
    best = best_snapshot(found)
    assert best.accuracy == max(evaluation.accuracy for evaluation in found.values())
    assert "maximum over 3 evaluations" in best.note
    with pytest.raises(LearnerError, match="snapshots"):
        evaluate_snapshots(tmp_path / "snapshots", DATA, protocol="paper", **QUICK)


def test_predictions_fit_images_of_any_size() -> None:
    classifier = protonet().adapt(images(3), torch.arange(3))
    assert classifier.predict(images(2, size=50)).shape == (2,)
