"""Sentences that explain a quickstart's table of results; every number and verdict follows from the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dfml.demo.result import QuickstartResult
from dfml.evaluation.protocol import Difference, Evaluation, compare
from dfml.methods.average import Average
from dfml.methods.best_member import BestMember
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent

_ACRONYMS = (PURER.name, FREE.name)


def explain(result: QuickstartResult) -> list[str]:
    """Explain the table of results.

    Returns:
        Paragraphs of plain text.
    """
    evaluations = {each.name: each for each in result.evaluations}
    student, first = evaluations[ZooStudent.name], result.evaluations[0]
    published = [evaluations[name] for name in _ACRONYMS]
    published_names = join_words([display_name(name) for name in _ACRONYMS])
    return [
        f"The classifiers were trained on Latin letters and digits only. "
        f"{join_words([display_name(each.name) for each in result.trained])} used the classifiers, but no image. Each "
        f"task has {first.way} Greek or Cyrillic letters with {first.shot} support images each; chance level is "
        f"{100 / first.way:.0f}%.",
        f"zoo_student is one network, distilled from all {len(result.members)} classifiers. {published_names} are "
        "published methods of data-free meta-learning.",
        "random_init is the backbone of zoo_student, PURER and FREE, untrained. random_embedding is the same "
        f"untrained backbone, adapted in the same way as those of {published_names}.",
        *(
            _about_training(each, [evaluations[RandomInit.name], evaluations[RandomEmbedding.name]])
            for each in result.trained
        ),
        _about_student(result, student, published),
        *(_about_pair(result, first, second) for first, second in pairwise(published)),
        "average is the mean of the classifiers' weights, the simplest use of a zoo: "
        f"{_against(result, evaluations[Average.name])}.",
        "best_member is one classifier of the zoo, chosen without labels: the one whose features agree best with the "
        f"predictions of all classifiers on recovered images. {_against(result, evaluations[BestMember.name])}.",
        _about_zoo_embedding(result, evaluations[ZooEmbedding.name]),
    ]


def _about_training(trained: Evaluation, untrained: Sequence[Evaluation]) -> str:
    gains = [compare(trained, each) for each in untrained]
    points = " and ".join(f"{_points(gain)} {gain.second}" for gain in gains)
    better = all(gain.mean > gain.ci for gain in gains)
    verdict = "Training on the zoo helped" if better else "No benefit of training on the zoo was measured"
    return f"{display_name(trained.name)} is {points}. {verdict}."


def _about_student(result: QuickstartResult, student: Evaluation, published: Sequence[Evaluation]) -> str:
    points = join_words([f"{_points(compare(student, each))} {display_name(each.name)}" for each in published])
    others = join_words([f"{result.training_seconds[each.name]:.0f}" for each in published])
    own = result.training_seconds[student.name]
    return (
        f"{display_name(student.name)} is {points} on the same tasks, after {own:.0f} seconds of training against "
        f"{others}."
    )


def _about_pair(result: QuickstartResult, first: Evaluation, second: Evaluation) -> str:
    own, other = (result.training_seconds[each.name] for each in (second, first))
    return (
        f"{display_name(second.name)} is {_points(compare(second, first))} {display_name(first.name)}, after "
        f"{own:.0f} seconds of training against {other:.0f}. Full runs take hours; this order says nothing about them."
    )


def _against(result: QuickstartResult, baseline: Evaluation) -> str:
    gains = {each.name: compare(each, baseline) for each in result.trained}
    return join_words([f"{display_name(name)} is {_points(gain)} it" for name, gain in gains.items()])


def _about_zoo_embedding(result: QuickstartResult, zoo: Evaluation) -> str:
    best = max((each for each in result.evaluations if each is not zoo), key=lambda each: each.accuracy)
    difference = compare(zoo, best)
    size = result.stored_bytes[zoo.name] / result.stored_bytes[best.name]
    beginning = (
        f"zoo_embedding is not trained either: it keeps all {len(result.members)} classifiers and embeds every image "
        f"by their predicted probabilities. It is {_points(difference)} {display_name(best.name)}, the best of the "
        f"methods that keep one network, with {size:.0f} times the weights to store and to run."
    )
    if abs(difference.mean) <= difference.ci:
        return f"{beginning} The difference is within its confidence interval."
    if difference.mean < 0:
        return f"{beginning} Here one network is better than all classifiers together."
    return f"{beginning} Here keeping all classifiers is better, where that is possible."


def display_name(method: str) -> str:
    """Write the names of the published methods in capitals, as their papers do."""
    return method.upper() if method in _ACRONYMS else method


def join_words(parts: Sequence[str]) -> str:
    """Join at least two parts with commas and a final "and"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]])


def _points(difference: Difference) -> str:
    word = "above" if difference.mean >= 0 else "below"
    return f"{abs(100 * difference.mean):.1f} ± {100 * difference.ci:.1f} points {word}"
