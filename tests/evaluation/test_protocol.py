"""`evaluate`: the episodes, their mean accuracy and interval, and the batch-norm rule (protocol) of the learner."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from dfml.errors import DataError, ProtocolError, UsageError
from dfml.evaluation import evaluate
from dfml.evaluation.episodes import sample_evaluation_episode
from dfml.evaluation.protocol import compare
from dfml.methods import METHODS
from tests.factories import load_episode, zoo

from .small import DATA, QUICK, untrained_protonet


def test_support_and_query_never_share_an_image_and_labels_follow_the_classes() -> None:
    for index in range(50):
        support, query = sample_evaluation_episode(DATA, way=3, shot=2, query=5, seed=0, index=index)
        assert not set(support.tolist()) & set(query.tolist())
        assert len(set(support.tolist()) | set(query.tolist())) == 3 * (2 + 5)
        classes = DATA.labels[support].view(3, 2)[:, 0]
        assert torch.equal(DATA.labels[query], classes.repeat_interleave(5))


@pytest.mark.numeric
def test_accuracy_and_interval_are_those_of_the_episodes() -> None:
    evaluation = evaluate(untrained_protonet(), DATA, **QUICK)
    expected = []
    for index in range(12):
        task = load_episode(DATA, way=3, shot=2, query=5, seed=0, index=index)
        classifier = untrained_protonet().adapt(task.support_images, task.support_labels)
        predicted = classifier.predict_proba(task.query_images).argmax(dim=1)
        expected.append((predicted == task.query_labels).double().mean().item())
    assert evaluation.accuracies == pytest.approx(expected)
    assert evaluation.accuracy == pytest.approx(statistics.mean(expected))
    assert evaluation.ci == pytest.approx(1.96 * statistics.stdev(expected) / math.sqrt(12))
    assert evaluation.accuracy > 0.6  # chance is 1/3


def test_an_evaluation_without_episodes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one episode, found episodes=0"):
        evaluate(untrained_protonet(), DATA, **{**QUICK, "episodes": 0})


def test_the_interval_of_a_single_episode_is_infinite() -> None:
    assert evaluate(untrained_protonet(), DATA, **{**QUICK, "episodes": 1}).ci == math.inf


def test_an_episode_depends_on_the_seed_and_not_on_the_number_of_episodes() -> None:
    short = evaluate(untrained_protonet(), DATA, **{**QUICK, "episodes": 5})
    long = evaluate(untrained_protonet(), DATA, **QUICK)
    assert short.accuracies == long.accuracies[:5]
    other = evaluate(untrained_protonet(), DATA, **QUICK, seed=1)
    assert other.accuracies != long.accuracies


def test_learners_are_compared_in_pairs() -> None:
    first, second = (evaluate(untrained_protonet(seed=seed), DATA, **QUICK) for seed in (0, 1))
    difference = compare(first, second)
    differences = [a - b for a, b in zip(first.accuracies, second.accuracies, strict=True)]
    assert difference.mean == pytest.approx(statistics.mean(differences))
    assert difference.ci == pytest.approx(1.96 * statistics.stdev(differences) / math.sqrt(12))


def test_evaluations_of_different_episodes_are_not_compared() -> None:
    first = evaluate(untrained_protonet(), DATA, **QUICK)
    other = evaluate(untrained_protonet(), DATA, **{**QUICK, "shot": 1, "episodes": 5})
    with pytest.raises(ValueError, match=r"different episodes \(they differ in shot, episodes\)"):
        compare(first, other)


def test_a_learner_of_the_other_protocol_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(ProtocolError, match="trained for the protocol 'paper', not 'strict'"):
        evaluate(untrained_protonet(protocol="paper"), DATA, **QUICK)
    with pytest.raises(ProtocolError, match="trained for the protocol 'strict', not 'paper'"):
        evaluate(untrained_protonet(protocol="strict"), DATA, **QUICK, protocol="paper")
    allowed = evaluate(
        untrained_protonet(protocol="paper"), DATA, **QUICK, protocol="strict", allow_other_protocol=True
    )
    assert allowed.protocol == "strict"  # what was asked for
    assert allowed.note == "trained and adapted by the protocol paper"  # what the learner follows


def test_a_learner_of_any_protocol_is_evaluated_by_both_without_a_note() -> None:
    # The protocol of a zoo embedding is `any`: it uses no batch statistics, so the two rules give the same predictions.
    learner = METHODS["zoo_embedding"]().fit(zoo(2), device="cpu")
    assert learner.protocol == "any"
    strict, paper = (evaluate(learner, DATA, **QUICK, protocol=protocol) for protocol in ("strict", "paper"))
    assert (strict.protocol, paper.protocol) == ("strict", "paper")
    assert strict.note == paper.note == ""
    assert strict.accuracies == paper.accuracies


def test_too_few_classes_or_images_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"colours has 6 classes, but --way asks for 7"):
        evaluate(untrained_protonet(), DATA, way=7, shot=1, query=5)
    with pytest.raises(DataError, match=r"class colour 0 of colours has 20 images, but shot \+ query need 21"):
        evaluate(untrained_protonet(), DATA, way=3, shot=6, query=15)


def test_a_result_holds_settings_timings_and_versions() -> None:
    result = evaluate(untrained_protonet(), DATA, **QUICK).as_dict()
    assert result.keys() >= {"accuracy", "ci", "seconds", "versions"}
    assert {name: result[name] for name in QUICK} == QUICK
    assert (result["protocol"], result["seed"], result["dataset"]) == ("strict", 0, "colours")
    assert result["adapt_ms"] > 0
    assert result["predict_ms"] > 0
