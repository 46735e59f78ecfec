"""What a quickstart leaves to be looked at: contact sheets, learning curves, the task's images, results, one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dfml.demo.result import NewTask, QuickstartResult, QuickstartSettings, RecoveredClass, Training
from dfml.evaluation.protocol import Difference, Evaluation, compare
from dfml.images import to_pil
from dfml.methods.average import Average
from dfml.methods.best_member import BestMember
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from dfml.report.figures import learning_curve, to_svg
from dfml.report.html_page import Page, PageFigure, PagePicture, PagePrediction, PageSheet, PageTask, write_page
from dfml.report.results import curve_values, results_values
from dfml.report.table import Table
from dfml.report.training import chosen_settings, training_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, SHEET, CURVE, TASK = "report.html", "contact_sheet_{}.png", "learning_curve.svg", "task"
_REAL_SHOWN = 3  # images of the members' training set, beside the recovered ones
_PAPERS = (PURER.name, FREE.name)


def write_quickstart(story: QuickstartResult, out: Path, command: str) -> None:
    """Write the contact sheets, the learning curves, the new task as an image folder, and the page.

    Args:
        story: What happened.
        out: The run's folder.
        command: What was typed.

    Raises:
        OSError: If the folder cannot be written.
    """
    sheets = {name: render_sheet(story, name) for name in story.trainings}
    for name, sheet in sheets.items():
        sheet.save(out / SHEET.format(name))
    (out / CURVE).write_text(to_svg(_learning_curves(story)), encoding="utf-8")
    save_task(story.task, out / TASK)
    write_page(quickstart_page(story, sheets, command), out / PAGE)


def quickstart_values(story: QuickstartResult) -> dict[str, Any]:
    """The story's `results.json`."""
    members = [{"name": each.name, "labels": each.labels, "held_out": each.held_out_accuracy} for each in story.members]
    return {
        **results_values(story.evaluations, story.training_seconds),
        "curves": {name: curve_values(training.curve) for name, training in story.trainings.items()},
        "stored_bytes": story.stored_bytes,
        "stages": {name: round(seconds, 3) for name, seconds in story.stages.items()},
        "zoo": members,
        "task": {"classes": story.task.classes, "right": story.task.right, "of": len(story.task.query_labels)},
    }


def differences(story: QuickstartResult) -> list[Difference]:
    """Each method that was trained against all that come after it."""
    return [
        compare(one, other) for place, one in enumerate(story.learned, start=1) for other in story.evaluations[place:]
    ]


def explain(story: QuickstartResult) -> list[str]:
    """What the table means, in plain words; every sentence follows from the figures."""
    found = {each.name: each for each in story.evaluations}
    student, first = found[ZooStudent.name], story.evaluations[0]
    papers = [found[name] for name in _PAPERS]
    authors = _listed([_title(name) for name in _PAPERS])
    return [
        f"The classifiers know Latin letters and digits only. {_all(story)} saw neither those nor any other image, "
        f"just the classifiers. Each task has {first.way} Greek or Cyrillic letters and {first.shot} examples of each; "
        f"guessing would be right in {100 / first.way:.0f}% of the cases.",
        f"zoo_student is one network that learned to answer what all {len(story.members)} classifiers would answer. "
        f"{authors} are the methods of the papers.",
        "random_init is the network of all three untrained. random_embedding is that network, untrained too, adapted "
        f"in the way of {authors}.",
        *(_about_learning(each, found[RandomInit.name], found[RandomEmbedding.name]) for each in story.learned),
        _about_student(story, student, papers),
        *(_about_pair(story, one, other) for one, other in pairwise(papers)),
        "average takes the mean of the classifiers' weights, the simplest use of a zoo: "
        f"{_against(story, found[Average.name])}.",
        "best_member trains nothing and keeps one classifier: the one whose features agree best with what all of them "
        f"say about images that some of them recall. {_against(story, found[BestMember.name])}.",
        _about_zoo_embedding(story, found[ZooEmbedding.name]),
    ]


def _about_learning(learned: Evaluation, initial: Evaluation, embedding: Evaluation) -> str:
    gains = [compare(learned, untrained) for untrained in (initial, embedding)]
    verdict = "That much was" if all(gain.mean > gain.ci for gain in gains) else "Nothing that could be measured was"
    points = " and ".join(f"{_points(gain)} {gain.second}" for gain in gains)
    return f"{_title(learned.name)} is {points}. {verdict} learned from the classifiers."


def _about_student(story: QuickstartResult, student: Evaluation, papers: Sequence[Evaluation]) -> str:
    points = _listed([f"{_points(compare(student, each))} {_title(each.name)}" for each in papers])
    needed = _listed([f"{story.training_seconds[each.name]:.0f}" for each in papers])
    took = story.training_seconds[student.name]
    return (
        f"{_title(student.name)} is {points} on the same tasks, after {took:.0f} seconds of training against {needed}."
    )


def _about_pair(story: QuickstartResult, one: Evaluation, other: Evaluation) -> str:
    took, needed = (story.training_seconds[each.name] for each in (other, one))
    return (
        f"{_title(other.name)} is {_points(compare(other, one))} {_title(one.name)}, after {took:.0f} seconds of "
        f"training against {needed:.0f}. Which is ahead after so short a time says nothing of full runs, which take "
        "hours."
    )


def _against(story: QuickstartResult, baseline: Evaluation) -> str:
    return _listed([f"{_title(each.name)} is {_points(compare(each, baseline))} it" for each in story.learned])


def _about_zoo_embedding(story: QuickstartResult, zoo: Evaluation) -> str:
    best = max((each for each in story.evaluations if each is not zoo), key=lambda each: each.accuracy)
    difference = compare(zoo, best)
    size = story.stored_bytes[zoo.name] / story.stored_bytes[best.name]
    beginning = (
        f"zoo_embedding trains nothing either: it keeps all {len(story.members)} classifiers, asks each of them about "
        f"every image, and compares their answers. It is {_points(difference)} {_title(best.name)}, the best of those "
        f"that keep one network, with {size:.0f} times the weights to keep and to run."
    )
    if abs(difference.mean) <= difference.ci:
        return f"{beginning} That is no difference that could be measured."
    if difference.mean < 0:
        return f"{beginning} One network serves better here than all classifiers together."
    return f"{beginning} Who can keep every classifier is better served by it here."


def _title(method: str) -> str:
    """The papers' methods have acronyms for names."""
    return method.upper() if method in _PAPERS else method


def _all(story: QuickstartResult) -> str:
    return _listed([_title(each.name) for each in story.learned])


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]])


def _points(difference: Difference) -> str:
    word = "above" if difference.mean >= 0 else "below"
    return f"{abs(100 * difference.mean):.1f} ± {100 * difference.ci:.1f} points {word}"


def quickstart_page(story: QuickstartResult, sheets: Mapping[str, Image.Image], command: str) -> Page:
    """The page's contents."""
    parameters = max(story.stored_bytes[each.name] for each in story.learned) / 4
    took = _listed([f"{story.training_seconds[each.name]:.0f} seconds ({_title(each.name)})" for each in story.learned])
    return Page(
        title="From classifiers of Latin letters to learners of Greek and Cyrillic ones",
        summary=(
            f"{_all(story)} learned from {len(story.members)} small image classifiers, without any image, to tell "
            f"letters apart that none of them knows: each one network of at most "
            f"{math.ceil(parameters / 1000) * 1000:,} weights, in {took}."
        ),
        evaluations=story.evaluations,
        command=command,
        meaning=explain(story),
        differences=differences(story),
        training_seconds=story.training_seconds,
        figures=_figures(story),
        sheets=[_sheet(_title(name), sheet, story.trainings[name]) for name, sheet in sheets.items()],
        task=_task(story.task, _title(story.learned[0].name)),
        stages=story.stages,
        settings={"seed": story.seed, **_settings(story.settings)},
        versions=story.evaluations[0].versions,
        subjects=len(story.learned),
    )


def _settings(settings: QuickstartSettings) -> dict[str, Any]:
    """Those that count: the methods' seeds are the story's."""
    seeds = {name: {"seed"} for name in (*settings.trained, BestMember.name)}
    return chosen_settings(settings.model_dump(mode="json", exclude=seeds))


def _sheet(title: str, sheet: Image.Image, training: Training) -> PageSheet:
    bare = not all(len(each.recovered) for classes in training.recovered for each in classes)
    return PageSheet(
        f"What the classifiers still knew: {title}",
        "Each block is one classifier, each row one of its classes. On the left, images that "
        f"{title} recovered from the classifier's weights alone and learned from, as they were at the end; after the "
        f"gap, {_REAL_SHOWN} of the images that the classifier had been trained on, which {title} never saw."
        + (" Where nothing stands on the left, none were kept." if bare else ""),
        PagePicture.of(sheet, f"Letters that {title} recovered beside real ones, by classifier and class."),
    )


def _learning_curves(story: QuickstartResult) -> Figure:
    curves = {name: training.curve_in_seconds() for name, training in story.trainings.items()}
    return learning_curve(curves, story.baselines, along="seconds of training")


def _figures(story: QuickstartResult) -> list[PageFigure]:
    drawn = [
        (
            "Learning curves",
            _learning_curves(story),
            f"{_all(story)} in the course of their training, with 95% confidence intervals; at 0 all are the "
            f"untrained network ({RandomEmbedding.name}). The lines across are methods that do not train. Nothing was "
            "selected by these curves: their ends are the results.",
        )
    ]
    for name, training in story.trainings.items():
        drawn += training_figures(name, _title(name), training.metrics)
    return [
        PageFigure(title, caption, to_svg(figure, f"figure-{number}", themed=True))
        for number, (title, figure, caption) in enumerate(drawn)
    ]


def render_sheet(story: QuickstartResult, method: str) -> Image.Image:
    """Images that a method recovered and, after a gap, real ones; a block a member."""
    return render_contact_sheet(
        [
            Block(
                member.name,
                [_row(each, story.settings.shown) for each in classes],
                f"{member.held_out_accuracy:.0%} right on held-out images",
            )
            for member, classes in zip(story.members, story.trainings[method].recovered, strict=True)
        ]
    )


def _row(each: RecoveredClass, places: int) -> Row:
    """The real images begin at the same place in every row, however many were recovered."""
    blank = torch.ones_like(each.real[:1]).expand(places + 1 - len(each.recovered), -1, -1, -1)
    return Row(each.label, torch.cat([each.recovered, blank, each.real[:_REAL_SHOWN]]))


def save_task(task: NewTask, folder: Path) -> None:
    """`support/CLASS/N.png` as `dfml adapt` reads it, and `query/CLASS-N.png` for `dfml predict`."""
    for place, images, labels in (
        ("support/{}/{}.png", task.support_images, task.support_labels),
        ("query/{}-{}.png", task.query_images, task.query_labels),
    ):
        for label, name in enumerate(task.classes):
            for number, image in enumerate(images[labels == label]):
                path = folder / place.format(name, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                to_pil(image).save(path)


def _task(task: NewTask, learner: str) -> PageTask:
    names = [name.replace("_", " ") for name in task.classes]
    best = task.probabilities.max(dim=1)
    answers = zip(
        task.query_images, best.indices.tolist(), best.values.tolist(), task.query_labels.tolist(), strict=True
    )
    return PageTask(
        caption=f"From these images of {len(names)} letters {learner} made a classifier, which named "
        f"{task.right} of {len(task.query_labels)} other images rightly.",
        support={
            name: [_picture(image, name) for image in task.support_images[task.support_labels == label]]
            for label, name in enumerate(names)
        },
        predictions=[
            PagePrediction(_picture(image, names[truth]), names[said], probability, names[truth])
            for image, said, probability, truth in answers
        ],
    )


def _picture(image: Float[Tensor, "3 size size"], alt: str) -> PagePicture:
    return PagePicture.of(to_pil(image), alt)


def predictions_table(task: NewTask, images: int) -> Table:
    """What the classifier says of the first few query images of every class, with the truth beside it."""
    best = task.probabilities.max(dim=1)
    rows = []
    for label, name in enumerate(task.classes):
        for number, index in enumerate((task.query_labels == label).nonzero()[:images, 0].tolist()):
            said = task.classes[int(best.indices[index])]
            mark = "right" if said == name else "wrong"
            rows.append((f"{name}-{number}.png", said, f"{100 * float(best.values[index]):.0f}", name, mark))
    headings = ("image", "prediction", "sure %", "truth", "")
    return Table(headings, tuple(rows), frozenset({"image", "prediction", "truth", ""}))
