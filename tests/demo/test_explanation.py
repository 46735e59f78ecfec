"""The explanation of a quickstart follows from its accuracies."""

from __future__ import annotations

from dataclasses import replace

from dfml.demo.explanation import explain
from dfml.demo.result import QuickstartResult
from dfml.evaluation.protocol import Evaluation
from tests.demo.quickstart_small import Finished


def with_accuracies(result: QuickstartResult, **means: float) -> QuickstartResult:
    """The same result with other accuracies; 0.5 where none is given."""

    def changed(each: Evaluation) -> Evaluation:
        mean = means.get(each.name, 0.5)
        return replace(each, accuracies=(mean - 0.01, mean + 0.01, mean - 0.01, mean + 0.01))

    return replace(result, evaluations=tuple(changed(each) for each in result.evaluations))


def test_explanation_follows_good_accuracies(finished: Finished) -> None:
    accuracies = {"zoo_student": 0.85, "purer": 0.8, "free": 0.6, "random_init": 0.3, "zoo_embedding": 0.9}
    words = explain(with_accuracies(finished[0], **accuracies))
    good = " ".join(words)
    assert "zoo_student is 55.0 ± 0.0 points above random_init" in good
    assert "PURER is 50.0 ± 0.0 points above random_init" in good
    assert "FREE is 30.0 ± 0.0 points above random_init" in good
    assert "zoo_student is 5.0 ± 0.0 points above PURER and 25.0 ± 0.0 points above FREE on the same tasks" in good
    assert "FREE is 20.0 ± 0.0 points below PURER" in good
    assert "35.0 ± 0.0 points above it, PURER is 30.0 ± 0.0 points above it and FREE is 10.0" in good
    assert "It is 5.0 ± 0.0 points above zoo_student, the best of the methods that keep one network" in good
    assert good.count("Training on the zoo helped") == 3
    assert "Here keeping all classifiers is better" in good
    # Only the order of the two published methods, which need hours, has this warning.
    (warning,) = (paragraph for paragraph in words if "says nothing about them" in paragraph)
    assert "student" not in warning


def test_explanation_follows_bad_accuracies(finished: Finished) -> None:
    accuracies = {"zoo_student": 0.1, "purer": 0.3, "free": 0.6, "random_init": 0.4, "zoo_embedding": 0.2}
    bad = " ".join(explain(with_accuracies(finished[0], **accuracies)))
    assert "PURER is 10.0 ± 0.0 points below random_init" in bad
    assert "zoo_student is 20.0 ± 0.0 points below PURER and 50.0 ± 0.0 points below FREE" in bad
    assert "40.0 ± 0.0 points below FREE, the best of the methods that keep one network" in bad
    assert "Here one network is better than all classifiers together" in bad
    assert bad.count("No benefit of training on the zoo was measured") == 2
    assert bad.count("Training on the zoo helped") == 1
    assert "keeping all classifiers" not in bad


def test_explanation_names_a_baseline_that_is_the_best_single_network(finished: Finished) -> None:
    words = explain(with_accuracies(finished[0], best_member=0.9, zoo_embedding=0.9))
    assert "zoo_student is 40.0 ± 0.0 points below it" in words[-2]
    assert "0.0 ± 0.0 points above best_member, the best of" in words[-1]
    assert "with 2 times the weights" in words[-1]
    assert "within its confidence interval" in words[-1]
