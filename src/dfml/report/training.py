"""What a training leaves to be looked at: losses, how faithful its images were, the images themselves, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import versions
from dfml.evaluation.recalled import recalled_images
from dfml.inversion.engines import ENGINES
from dfml.learners.base import MetaLearner
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.report.contact_sheet import Block, Row, draw_contact_sheet
from dfml.report.figures import inversion_fidelity, to_svg, training_losses
from dfml.report.page import Page, PageFigure, PagePicture, PageSheet, write_page
from dfml.training.folder import RunFolder
from dfml.training.loop import TrainingConfig
from dfml.zoo.readers import WEIGHTS
from dfml.zoo.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
_CLASSES, _SHOWN = 20, 12  # of the zoo, and images of each, that the page shows
_PSEUDO_TASKS = "The learner's loss and accuracy on pseudo-tasks of recovered images."
_ABOUT_TRAINING = {
    ZooStudent.name: "How far the student still is from the classifiers' answers and, towards the end, its loss on "
    "episodes of recovered images; lower is better.",
    PURER.name: f"{_PSEUDO_TASKS} When it stops to improve, the Gradient Switch makes an episode's images harder for "
    "it: each arrow runs from the loss before to after.",
    FREE.name: f"{_PSEUDO_TASKS} The other line above is how far it still is from the classifiers that it is distilled "
    "from (BELL).",
}
_ABOUT_INVERSION = {
    ZooStudent.name: "What members recall, starting from dead leaves or strokes",
    PURER.name: "The images on their way from noise",
    FREE.name: "What the generator draws for classifiers after its few steps on each of them",
}


def training_figures(method: str, title: str, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, Figure, str]]:
    """What the metrics of a run can show: (heading, figure, caption).

    Args:
        method: Its name.
        title: What it is called in headings.
        metrics: A row a meta-iteration.
    """
    names = {name for row in metrics for name in row}
    drawn = []
    if any(name.endswith("_loss") and name != "inversion_loss" for name in names):
        about = _ABOUT_TRAINING.get(method, "The losses of the training; lower is better.")
        drawn.append((f"Training of {title}", training_losses(metrics), about))
    if {"inversion_loss", "batch_norm_distance"} <= names:
        about = (
            f"{_ABOUT_INVERSION.get(method, 'Recovered images')}: how unsure the classifiers are of them, and how far "
            "their batch-norm statistics are from those that the classifiers remember. Means over classifiers; lower "
            "is better."
        )
        drawn.append((f"Inversion of {title}", inversion_fidelity(metrics), about))
    return drawn


def chosen_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings without the sections of engines that are not chosen."""
    unused = {*ENGINES} - {values["engine"]} if "engine" in values else set()
    return {
        name: chosen_settings(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in unused
    }


def write_training(
    run: RunFolder, zoo: Zoo, learner: MetaLearner, config: TrainingConfig, *, seconds: float, command: str
) -> None:
    """Write the page of a training beside its learner.

    Args:
        run: Where both are.
        zoo: What was learned from.
        learner: What came out.
        config: Of the method.
        seconds: Of the whole training.
        command: What was typed.

    Raises:
        RunError: If the run's newest checkpoint is damaged.
        OSError: If the page cannot be written.
    """
    metrics = run.read_metrics()
    figures = training_figures(learner.name, learner.name, metrics)
    weights = run.path / WEIGHTS
    kept = f" It keeps {weights.stat().st_size / 1e6:.1f} MB of weights." if weights.exists() else ""
    page = Page(
        title=f"{learner.name}: a few-shot learner from {len(zoo)} classifiers",
        summary=f"{learner.name} learned from {len(zoo)} classifiers of {len(zoo.classes)} classes, without any image, "
        f"in {seconds:.0f} seconds.{kept}",
        command=command,
        notes=_notes(metrics),
        figures=[
            PageFigure(title, caption, to_svg(figure, f"figure-{number}", themed=True))
            for number, (title, figure, caption) in enumerate(figures)
        ],
        sheets=_sheets(run, zoo, learner),
        stages=seconds_by_part(metrics, seconds),
        settings={"zoo": str(zoo.path), learner.name: chosen_settings(config.model_dump(mode="json"))},
        versions=versions(),
    )
    write_page(page, run.path / PAGE)


def _notes(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Such as members that were set aside."""
    return [f"meta-iteration {row['iteration']}: {note}" for row in metrics for note in row.get("notes", ())]


def seconds_by_part(metrics: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """What the seconds went into, as far as the method tells."""
    ending = "_seconds"
    told = dict.fromkeys(name for row in metrics for name in row if name.endswith(ending))
    parts = {name.removesuffix(ending): float(sum(row.get(name, 0.0) for row in metrics)) for name in told}
    return {**parts, "other" if parts else "training": max(0.0, seconds - sum(parts.values()))}


def _sheets(run: RunFolder, zoo: Zoo, learner: MetaLearner) -> list[PageSheet]:
    """The newest images of the zoo's first classes; nothing where the run kept none."""
    classes = range(min(_CLASSES, len(zoo.classes)))
    found = zip(classes, recalled_images(run, learner, classes, _SHOWN), strict=False)
    rows = [Row(zoo.classes.names[index], images) for index, images in found if len(images)]
    if not rows:
        return []
    sheet = draw_contact_sheet([Block(learner.name, rows, f"{len(rows)} of {len(zoo.classes)} classes")])
    picture = PagePicture.of(sheet, "Recovered images, a row a class.")
    about = "Images that the classifiers recalled and the learner learned from, as they were at the end."
    return [PageSheet("What the classifiers still knew", about, picture)]
