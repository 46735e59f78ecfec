"""What a training leaves to be looked at: losses, how faithful its images were, the images themselves, one page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import versions
from dfml.evaluation.recalled import recalled_images
from dfml.images import resize_and_crop
from dfml.inversion.registry import engine_names
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import WEIGHTS
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from dfml.report.figures import inversion_fidelity, to_svg, training_losses
from dfml.report.html_page import Page, PageFigure, PagePicture, PageSheet, write_page
from dfml.training.loop import TrainingConfig
from dfml.training.run_folder import RunFolder
from dfml.zoo.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
_CLASSES, _SHOWN, _SIDE = 20, 12, 64  # of the zoo, images of each, and their pixels at most, that the page shows
_ABOUT_LOSSES = {  # in the order of reading; of those whose metric is there
    "outer_loss": "The learner's loss on episodes of recovered images.",
    "accuracy": "Its accuracy on them.",
    "distillation_loss": "How far it still is from the classifiers' answers.",
    "switch_loss_before": "When it stops to improve, the Gradient Switch makes an episode's images harder for it: each "
    "arrow runs from the loss before to after.",
}
_ABOUT_IMAGES = {
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
    if "accuracy" in names or any(name.endswith("_loss") and name != "inversion_loss" for name in names):
        known = [about for name, about in _ABOUT_LOSSES.items() if name in names]
        drawn.append(
            (f"Training of {title}", training_losses(metrics), " ".join(known) or "In the method's own terms.")
        )
    if names & {"inversion_loss", "batch_norm_distance"}:
        about = (
            f"{_ABOUT_IMAGES.get(method, 'Recovered images')}: how unsure the classifiers are of them, and how far "
            "their batch-norm statistics are from those that the classifiers remember. Means over classifiers; lower "
            "is better."
        )
        drawn.append((f"Inversion of {title}", inversion_fidelity(metrics), about))
    return drawn


def chosen_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings without the sections of inversion engines that are not chosen."""
    engine = values.get("engine")
    unused = {*engine_names()} - {engine} if isinstance(engine, str) else set()
    return {
        name: chosen_settings(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in unused
    }


def write_training(
    run: RunFolder,
    method: str,
    config: TrainingConfig,
    zoo: Zoo,
    learner: MetaLearner,
    *,
    seconds: float,
    command: str,
) -> None:
    """Write the page of a training beside its learner.

    Args:
        run: Where both are.
        method: Its name.
        config: Its settings.
        zoo: What was learned from.
        learner: What came out.
        seconds: Of the whole run.
        command: What was typed.

    Raises:
        RunError: If the run's newest checkpoint is damaged.
        OSError: If the page cannot be written.
    """
    metrics = run.read_metrics()
    page = Page(
        title=f"{method}: a few-shot learner from {len(zoo)} classifiers",
        summary=_summary(run, method, config, zoo, seconds),
        command=command,
        notes=_messages(run, metrics),
        figures=[
            PageFigure(title, caption, to_svg(figure, f"figure-{number}", themed=True))
            for number, (title, figure, caption) in enumerate(training_figures(method, method, metrics))
        ],
        sheets=_sheets(run, method, zoo, learner),
        stages=seconds_by_part(metrics, seconds),
        settings={"zoo": str(zoo.path or "memory"), method: chosen_settings(config.model_dump(mode="json"))},
        versions=versions(),
    )
    write_page(page, run.path / PAGE)


def _summary(run: RunFolder, method: str, config: TrainingConfig, zoo: Zoo, seconds: float) -> str:
    members = f"{len(zoo)} classifiers of {len(zoo.classes)} classes"
    if config.iterations:
        told = f"{method} learned from {members}, without any image, in {seconds:.0f} seconds."
    else:
        told = f"{method} on {members}: nothing was trained."
    weights = run.path / WEIGHTS
    return told + (f" It keeps {weights.stat().st_size / 1e6:.1f} MB of weights." if weights.exists() else "")


def _messages(run: RunFolder, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Such as members that were excluded."""
    start = run.started_from()
    begun = [f"It began with {start}: what happened before is not on this page."] if start else []
    return [*begun, *(f"meta-iteration {row['iteration']}: {note}" for row in metrics for note in row.get("notes", ()))]


def seconds_by_part(metrics: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """What the seconds of a run went into, as far as its metrics tell (`..._seconds`).

    Args:
        metrics: A row a meta-iteration.
        seconds: In all.
    """
    ending = "_seconds"
    told = dict.fromkeys(name for row in metrics for name in row if name.endswith(ending))
    parts = {name.removesuffix(ending): float(sum(row.get(name, 0.0) for row in metrics)) for name in told}
    rest = "other" if parts else "training"
    return {**parts, rest: parts.get(rest, 0.0) + max(0.0, seconds - sum(parts.values()))}


def _sheets(run: RunFolder, method: str, zoo: Zoo, learner: MetaLearner) -> list[PageSheet]:
    """The newest images of the first classes that the run has any of."""
    images_of = recalled_images(run, method, learner)
    if images_of is None:
        return []
    found = ((name, images_of(index, _SHOWN)) for index, name in enumerate(zoo.classes.names))
    some = itertools.islice(((name, images) for name, images in found if len(images)), _CLASSES)
    rows = [Row(name, resize_and_crop(images, min(images.shape[-1], _SIDE))) for name, images in some]
    if not rows:
        return []
    sheet = render_contact_sheet([Block(method, rows, f"{len(rows)} of {len(zoo.classes)} classes")])
    picture = PagePicture.of(sheet, "Recovered images, a row a class.")
    about = "Images that the classifiers recalled and the learner learned from, as they were at the end."
    return [PageSheet("What the classifiers still knew", about, picture)]
