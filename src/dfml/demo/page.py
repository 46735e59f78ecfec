"""Files of a quickstart's result: the page, contact sheets, learning curves, the new task's images, `results.json`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.demo.explanation import display_name, explain, join_words
from dfml.demo.quickstart_folder import QuickstartFolder
from dfml.demo.result import NewTask, QuickstartResult, RecoveredClass
from dfml.demo.settings import QuickstartSettings
from dfml.images import to_pil
from dfml.methods.best_member import BestMember
from dfml.methods.random_init import RandomEmbedding
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from dfml.report.figures import to_svg
from dfml.report.html_page import Page, PageFigure, PagePicture, PagePrediction, PageSheet, PageTask, write_page
from dfml.report.learning_curve import learning_curve
from dfml.report.results import curve_values, results_values
from dfml.report.table import Table
from dfml.report.training import chosen_settings, training_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REAL_IMAGES = 3  # images of the members' training set, beside the recovered ones


def write_quickstart(result: QuickstartResult, folder: QuickstartFolder, command: str) -> None:
    """Write the page, its contact sheets and learning curves as files of their own, and the new task's images.

    Args:
        result: What the quickstart measured.
        folder: The quickstart's folder.
        command: Command that repeats the quickstart.

    Raises:
        OSError: If the folder cannot be written.
    """
    page = quickstart_page(result, command)
    for method, sheet in zip(result.trainings, page.sheets, strict=True):
        folder.contact_sheet(method).write_bytes(sheet.picture.png)
    folder.curves.write_text(to_svg(_learning_curves(result)), encoding="utf-8")
    save_task(result.task, folder.task)
    write_page(page, folder.page)


def quickstart_values(result: QuickstartResult) -> dict[str, Any]:
    """Collect the plain values of the quickstart's `results.json`."""
    task = result.task
    return {
        **results_values(result.evaluations, result.training_seconds),
        "curves": {name: curve_values(training.curve) for name, training in result.trainings.items()},
        "stored_bytes": result.stored_bytes,
        "stages": {name: round(seconds, 3) for name, seconds in result.stages.items()},
        "zoo": [
            {"name": member.name, "labels": member.labels, "held_out": member.held_out_accuracy}
            for member in result.members
        ],
        "task": {"classes": task.classes, "right": task.correct, "of": len(task.query_labels)},
    }


def quickstart_page(result: QuickstartResult, command: str) -> Page:
    """Put the page together.

    Args:
        result: What the quickstart measured.
        command: Command that repeats the quickstart.
    """
    parameters = max(result.stored_bytes[each.name] for each in result.trained) / 4
    names = join_words([display_name(each.name) for each in result.trained])
    seconds = [
        f"{result.training_seconds[each.name]:.0f} seconds ({display_name(each.name)})" for each in result.trained
    ]
    return Page(
        title="From classifiers of Latin letters to few-shot learners of Greek and Cyrillic letters",
        summary=(
            f"{names} were trained on a zoo of {len(result.members)} small image classifiers, without any image, and "
            f"evaluated on letters that are classes of none of them. Each learner is one network of at most "
            f"{math.ceil(parameters / 1000) * 1000:,} weights. Training took {join_words(seconds)}."
        ),
        evaluations=result.evaluations,
        command=command,
        meaning=explain(result),
        differences=result.differences,
        training_seconds=result.training_seconds,
        figures=_figures(result),
        sheets=[_sheet(result, name) for name in result.trainings],
        task=_task(result.task, display_name(result.trained[0].name)),
        stages=result.stages,
        settings={"seed": result.seed, **_settings(result.settings)},
        versions=result.evaluations[0].versions,
        highlighted=len(result.trained),
    )


def _settings(settings: QuickstartSettings) -> dict[str, Any]:
    """The settings that have an effect: the methods' seeds are replaced by the quickstart's."""
    seeds = {name: {"seed"} for name in (*settings.trained, BestMember.name)}
    return chosen_settings(settings.model_dump(mode="json", exclude=seeds))


def _sheet(result: QuickstartResult, method: str) -> PageSheet:
    """Images that a method recovered and, after a gap, real ones; one block per member."""
    title, recovered = display_name(method), result.trainings[method].recovered
    incomplete = not all(len(each.recovered) for classes in recovered for each in classes)
    blocks = [
        Block(
            member.name,
            [_row(each, result.settings.shown) for each in classes],
            f"{member.held_out_accuracy:.0%} correct on held-out images",
        )
        for member, classes in zip(result.members, recovered, strict=True)
    ]
    return PageSheet(
        f"Recovered images: {title}",
        "One block per classifier, one row per class. Left: images that "
        f"{title} recovered from the classifier's weights alone and was trained on, as they were at the end. Right of "
        f"the gap: {_REAL_IMAGES} images of the classifier's training set, which {title} did not use."
        + (" Rows without images on the left: the method kept none of this class." if incomplete else ""),
        PagePicture.from_image(
            render_contact_sheet(blocks), f"Letters recovered by {title} beside real ones, by classifier and class."
        ),
    )


def _learning_curves(result: QuickstartResult) -> Figure:
    curves = {name: training.curve_in_seconds() for name, training in result.trainings.items()}
    return learning_curve(curves, result.baselines, along="seconds of training")


def _figures(result: QuickstartResult) -> list[PageFigure]:
    names = join_words([display_name(each.name) for each in result.trained])
    curves = PageFigure(
        "Learning curves",
        f"Accuracy of {names} on unseen classes during training, with 95% confidence intervals. At 0 seconds all are "
        f"the untrained network of {RandomEmbedding.name}. Horizontal lines are methods without training. No snapshot "
        "was selected by these curves: the results are those of the last meta-iteration.",
        to_svg(_learning_curves(result), "curves", themed=True),
    )
    parts = [
        training_figures(display_name(name), training.metrics, training.descriptions, prefix=name)
        for name, training in result.trainings.items()
    ]
    return [curves, *(figure for part in parts for figure in part)]


def _row(images: RecoveredClass, columns: int) -> Row:
    """One row, in which the real images start at the same column however many images were recovered."""
    blank = torch.ones_like(images.real[:1]).expand(columns + 1 - len(images.recovered), -1, -1, -1)
    return Row(images.label, torch.cat([images.recovered, blank, images.real[:_REAL_IMAGES]]))


def save_task(task: NewTask, folder: Path) -> None:
    """Write `support/CLASS/N.png`, as `dfml adapt` reads it, and `query/CLASS-N.png`, for `dfml predict`."""
    for pattern, images, labels in (
        ("support/{}/{}.png", task.support_images, task.support_labels),
        ("query/{}-{}.png", task.query_images, task.query_labels),
    ):
        for label, name in enumerate(task.classes):
            for number, image in enumerate(images[labels == label]):
                path = folder / pattern.format(name, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                to_pil(image).save(path)


def _task(task: NewTask, learner: str) -> PageTask:
    names = [name.replace("_", " ") for name in task.classes]
    best = task.probabilities.max(dim=1)
    predictions = zip(
        task.query_images, best.indices.tolist(), best.values.tolist(), task.query_labels.tolist(), strict=True
    )
    return PageTask(
        caption=f"{learner} was adapted to the support images of {len(names)} letters. The classifier predicts the "
        f"right letter for {task.correct} of {len(task.query_labels)} query images. Percentages are the probability of "
        "the predicted class.",
        support={
            name: [_picture(image, name) for image in task.support_images[task.support_labels == label]]
            for label, name in enumerate(names)
        },
        predictions=[
            PagePrediction(_picture(image, names[truth]), names[predicted], probability, names[truth])
            for image, predicted, probability, truth in predictions
        ],
    )


def _picture(image: Float[Tensor, "3 size size"], alt: str) -> PagePicture:
    return PagePicture.from_image(to_pil(image), alt)


def predictions_table(task: NewTask, images: int) -> Table:
    """Build a table of predictions and true classes.

    Args:
        task: The task.
        images: Query images of each class to include, from the first.
    """
    best = task.probabilities.max(dim=1)
    rows = []
    for label, name in enumerate(task.classes):
        for number, index in enumerate((task.query_labels == label).nonzero()[:images, 0].tolist()):
            predicted = task.classes[int(best.indices[index])]
            mark = "right" if predicted == name else "wrong"
            rows.append((f"{name}-{number}.png", predicted, f"{100 * float(best.values[index]):.0f}", name, mark))
    headings = ("image", "prediction", "probability %", "truth", "")
    return Table(headings, tuple(rows), frozenset({"image", "prediction", "truth", ""}))
