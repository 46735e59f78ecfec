"""What a quickstart leaves to be looked at: contact sheet, learning curve, the task's images, results, one page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dfml.evaluation.protocol import Difference, Evaluation, compare
from dfml.evaluation.story import NewTask, RecoveredClass, Story
from dfml.methods.average import Average
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.report.contact_sheet import Block, Row, draw_contact_sheet, to_picture
from dfml.report.figures import inversion_fidelity, learning_curve, to_svg, training_losses
from dfml.report.page import Page, PageFigure, PagePicture, PagePrediction, PageSheet, PageTask, write_page
from dfml.report.results import curve_values, results_values
from dfml.report.table import Table

PAGE, SHEET, CURVE, TASK = "report.html", "contact_sheet.png", "learning_curve.svg", "task"
_REAL_SHOWN = 3  # images of the members' training set, beside the recovered ones


def write_story(story: Story, out: Path, command: str) -> None:
    """Write the contact sheet, the learning curve, the new task as an image folder, and the page.

    Args:
        story: What happened.
        out: The run's folder.
        command: What was typed.

    Raises:
        OSError: If the folder cannot be written.
    """
    sheet = draw_sheet(story)
    sheet.save(out / SHEET)
    curve = learning_curve(story.curve, story.evaluations[1:])
    (out / CURVE).write_text(to_svg(curve), encoding="utf-8")
    save_task(story.task, out / TASK)
    write_page(story_page(story, sheet, command), out / PAGE)


def story_values(story: Story) -> dict[str, Any]:
    """The story's `results.json`."""
    members = [{"name": each.name, "labels": each.labels, "held_out": each.held_out_accuracy} for each in story.members]
    return {
        **results_values(story.evaluations, story.training_seconds),
        "curve": curve_values(story.curve),
        "stored_bytes": story.stored_bytes,
        "stages": {name: round(seconds, 3) for name, seconds in story.stages.items()},
        "zoo": members,
        "task": {"classes": story.task.classes, "right": story.task.right, "of": len(story.task.query_labels)},
    }


def differences(story: Story) -> list[Difference]:
    """PURER against each neighbour."""
    first, *others = story.evaluations
    return [compare(first, other) for other in others]


def explain(story: Story) -> list[str]:
    """What the table means, in plain words; every sentence follows from the figures."""
    found = {each.name: each for each in story.evaluations}
    purer = story.evaluations[0]
    untrained = compare(purer, found[RandomInit.name])
    embedded = compare(purer, found[RandomEmbedding.name])
    learned = untrained.mean > untrained.ci
    verdict = "That much was" if learned else "Nothing that could be measured was"
    return [
        "The classifiers know Latin letters and digits only. PURER saw neither those nor any other image, just the "
        f"classifiers. Each task has {purer.way} Greek or Cyrillic letters and {purer.shot} examples of each; guessing "
        f"would be right in {100 / purer.way:.0f}% of the cases.",
        f"random_init is PURER's network untrained: PURER is {_points(untrained)} it. random_embedding is the same "
        f"untrained network, adapted in PURER's way: PURER is {_points(embedded)} it. {verdict} learned from the "
        "classifiers.",
        "average takes the mean of the classifiers' weights, the simplest use of a zoo: PURER is "
        f"{_points(compare(purer, found[Average.name]))} it.",
        _about_zoo_embedding(story, purer, found[ZooEmbedding.name]),
    ]


def _about_zoo_embedding(story: Story, purer: Evaluation, zoo: Evaluation) -> str:
    difference = compare(zoo, purer)
    size = story.stored_bytes[zoo.name] / story.stored_bytes[purer.name]
    beginning = (
        f"zoo_embedding trains nothing: it keeps all {len(story.members)} classifiers, asks each of them about every "
        f"image, and compares their answers. It is {_points(difference)} PURER, with {size:.0f} times the weights to "
        "keep and to run."
    )
    if difference.mean <= difference.ci:
        return beginning
    return (
        f"{beginning} Who can keep every classifier is better served by it here. PURER is one small network, and these "
        f"{story.settings.purer.iterations} meta-iterations are a taste: real runs take thousands."
    )


def _points(difference: Difference) -> str:
    word = "above" if difference.mean >= 0 else "below"
    return f"{abs(100 * difference.mean):.1f} ± {100 * difference.ci:.1f} points {word}"


def story_page(story: Story, sheet: Image.Image, command: str) -> Page:
    """The page's contents."""
    purer, config = story.evaluations[0], story.settings.purer
    parameters = story.stored_bytes[purer.name] // 4
    return Page(
        title="From classifiers of Latin letters to a learner of Greek and Cyrillic ones",
        summary=(
            f"PURER learned from {len(story.members)} small image classifiers, without any image, to tell letters "
            f"apart that none of them knows: one network of about {round(parameters, -3):,} weights, "
            f"{config.iterations} meta-iterations, {story.training_seconds[purer.name]:.0f} seconds."
        ),
        evaluations=story.evaluations,
        command=command,
        meaning=explain(story),
        differences=differences(story),
        training_seconds=story.training_seconds,
        figures=_figures(story),
        sheets=[
            PageSheet(
                "What the classifiers still knew",
                "Each block is one classifier, each row one of its classes. On the left, images that PURER recovered "
                "from the classifier's weights alone and learned from, as they were at the end; after the gap, "
                f"{_REAL_SHOWN} of the images that the classifier had been trained on, which PURER never saw.",
                PagePicture(_png(sheet), "Recovered letters beside real ones, by classifier and class."),
            )
        ],
        task=_task(story.task),
        stages=story.stages,
        settings={"seed": story.seed, **story.settings.model_dump(mode="json", exclude={"purer": {"seed"}})},
        versions=purer.versions,
    )


def _figures(story: Story) -> list[PageFigure]:
    drawn = [
        (
            "Learning curve",
            learning_curve(story.curve, story.evaluations[1:]),
            "PURER over its meta-iterations, with 95% confidence intervals; at 0 it is the untrained network. The "
            "lines across are methods that do not train. Nothing was selected by this curve: its end is the result.",
        ),
        (
            "Training",
            training_losses(story.metrics),
            "The learner's loss and accuracy on pseudo-tasks of recovered images. When it stops to improve, the "
            "Gradient Switch makes an episode's images harder for it: each arrow runs from the loss before to after.",
        ),
        (
            "Inversion",
            inversion_fidelity(story.metrics),
            "The images on their way from noise: how unsure the classifiers are of them, and how far their batch-norm "
            "statistics are from those that the classifiers remember. Means over classifiers; lower is better.",
        ),
    ]
    return [
        PageFigure(title, caption, to_svg(figure, f"figure-{number}", themed=True))
        for number, (title, figure, caption) in enumerate(drawn)
    ]


def draw_sheet(story: Story) -> Image.Image:
    """Recovered images and, after a gap, real ones; a block a member."""
    return draw_contact_sheet(
        [
            Block(
                member.name,
                [_row(each) for each in classes],
                f"{member.held_out_accuracy:.0%} right on held-out images",
            )
            for member, classes in zip(story.members, story.recovered, strict=True)
        ]
    )


def _row(each: RecoveredClass) -> Row:
    gap = torch.ones_like(each.recovered[:1])
    return Row(each.label, torch.cat([each.recovered, gap, each.real[:_REAL_SHOWN]]))


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
                to_picture(image).save(path)


def _task(task: NewTask) -> PageTask:
    names = [name.replace("_", " ") for name in task.classes]
    best = task.probabilities.max(dim=1)
    answers = zip(
        task.query_images, best.indices.tolist(), best.values.tolist(), task.query_labels.tolist(), strict=True
    )
    return PageTask(
        caption=f"From these images of {len(names)} letters the learner made a classifier, which named {task.right} of "
        f"{len(task.query_labels)} other images rightly.",
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
    return PagePicture(_png(to_picture(image)), alt)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


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
