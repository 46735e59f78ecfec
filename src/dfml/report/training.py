"""The page of a training: figures of its metrics, its recovered images, the time of each part, and its settings.

Everything specific to a method comes from its run (`TrainingRun.describe_metrics`, `images`, `images_caption`), so a
method from outside this package gets the same page.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dfml.evaluation.protocol import versions
from dfml.images import resize_and_crop
from dfml.inversion.registry import engine_names
from dfml.learners.saving import WEIGHTS
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from dfml.report.figures import to_svg
from dfml.report.html_page import Page, PageFigure, PagePicture, PageSheet, write_page
from dfml.report.metric_panels import MetricRow, metric_figures
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.run_folder import RunFolder
from dfml.zoo.zoo import Zoo

PAGE = "report.html"
_LEAST_SECONDS, _REST = 60, 50  # between two pages of a run that trains: seconds, and times what the last one took
_MAX_CLASSES, _MAX_IMAGES, _MAX_SIDE = 20, 12, 64  # classes, images per class, and pixels per side on the page


def training_figures(
    title: str, rows: Sequence[MetricRow], descriptions: Mapping[str, MetricDescription], prefix: str = "figure"
) -> list[PageFigure]:
    """Draw the metrics of a run for a page.

    Args:
        title: Name of the method, for the headings.
        rows: Lines of `metrics.jsonl`.
        descriptions: From `TrainingRun.describe_metrics`.
        prefix: Beginning of the ids within the SVG elements. Ids must be unique on a page, so each call whose figures
            are on the same page needs another prefix.
    """
    return [
        PageFigure(
            f"Training of {title}: {each.title}",
            each.caption or "Thin line: every value. Thick line: running mean.",
            to_svg(each.figure, f"{prefix}-{number}", themed=True),
        )
        for number, each in enumerate(metric_figures(rows, descriptions))
    ]


def chosen_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy nested settings without the sections of the inversion engines that are not chosen.

    Args:
        values: Nested mappings of plain values. A mapping whose value of `engine` is a string names the chosen engine;
            mappings within it that have the name of another engine are left out.
    """
    engine = values.get("engine")
    unused = {*engine_names()} - {engine} if isinstance(engine, str) else set()
    return {
        name: chosen_settings(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not (name in unused and isinstance(value, Mapping))
    }


def write_training(
    folder: RunFolder,
    run: TrainingRun,
    method_name: str,
    config: TrainingConfig,
    zoo: Zoo,
    *,
    seconds: float,
    command: str,
    refresh: int | None = None,
) -> None:
    """Write the page of a training beside its learner, as `report.html`.

    Args:
        folder: The folder of the run.
        run: The run after training (`Method.run_`), or while it trains.
        method_name: Name of the method.
        config: Settings of the method.
        zoo: The zoo that it was trained on.
        seconds: Seconds of all meta-iterations in `metrics.jsonl`, with those before a resumption. For a method without
            meta-iterations, the duration of `Method.fit`.
        command: Command that repeats the run.
        refresh: Of a run that is still training: seconds after which a browser loads the page again.

    Raises:
        OSError: If the page cannot be written.
    """
    rows = folder.read_metrics()
    page = Page(
        title=f"{method_name}: a few-shot learner from {len(zoo)} classifiers",
        summary=_summary(folder, method_name, config, zoo, seconds)
        if refresh is None
        else _summary_so_far(rows, method_name, config, zoo, refresh),
        command=command,
        notes=_messages(folder, rows),
        figures=training_figures(method_name, rows, run.describe_metrics()),
        sheets=recovered_images(run, method_name, zoo),
        stages=seconds_by_part(rows, seconds),
        settings={"zoo": zoo.source, method_name: chosen_settings(config.model_dump(mode="json"))},
        versions=versions(),
        refresh=refresh,
    )
    write_page(page, folder.path / PAGE)


class LivePage:
    """Writes the page of a run while it trains; call it as `on_iteration` of `Method.fit`.

    The first is written after the first meta-iteration, and each later one when at least a minute, and fifty times as
    long as the last one took, has passed: the page takes 2% of the time at most.

    Args:
        run: Returns the run; not called before the first meta-iteration is done (`Method.run_` exists by then).
        method_name: Name of the method.
        config: Settings of the method.
        folder: The folder of the run.
        zoo: The zoo.
        command: Command that repeats the run.
    """

    def __init__(
        self,
        run: Callable[[], TrainingRun],
        method_name: str,
        config: TrainingConfig,
        folder: RunFolder,
        zoo: Zoo,
        command: str,
    ) -> None:
        self._run, self._name, self._config = run, method_name, config
        self._folder, self._zoo, self._command = folder, zoo, command
        self._next = -math.inf

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Write the page if it is time; none after the last meta-iteration, which `write_training` describes."""
        start = time.monotonic()
        if start < self._next or iteration >= self._config.iterations:
            return
        rows = self._folder.read_metrics()
        write_training(
            self._folder,
            self._run(),
            self._name,
            self._config,
            self._zoo,
            seconds=sum(row["seconds"] for row in rows),
            command=self._command,
            refresh=_LEAST_SECONDS,
        )
        end = time.monotonic()
        self._next = end + max(_LEAST_SECONDS, _REST * (end - start))


def _summary(folder: RunFolder, method_name: str, config: TrainingConfig, zoo: Zoo, seconds: float) -> str:
    members = f"{len(zoo)} classifiers with {len(zoo.classes)} classes"
    if config.iterations:
        summary = f"{method_name} was trained on {members}, without any image, in {seconds:.0f} seconds."
    else:
        summary = f"{method_name} on {members}, without training."
    weights = folder.path / WEIGHTS
    return summary + (f" Its weights take {weights.stat().st_size / 1e6:.1f} MB." if weights.exists() else "")


def _summary_so_far(rows: Sequence[MetricRow], method_name: str, config: TrainingConfig, zoo: Zoo, refresh: int) -> str:
    done = rows[-1]["iteration"] if rows else 0
    return (
        f"{method_name} is being trained on {len(zoo)} classifiers with {len(zoo.classes)} classes: {done} of "
        f"{config.iterations} meta-iterations. The page is loaded again every {refresh} seconds."
    )


def _messages(folder: RunFolder, rows: Sequence[MetricRow]) -> list[str]:
    """What happened besides the metrics, such as an excluded member."""
    start = folder.started_from()
    first = [f"The run started from {start}; this page does not show what happened before."] if start else []
    later = (f"Meta-iteration {row['iteration']}: {message}" for row in rows for message in row.get("messages", ()))
    return [*first, *later]


def seconds_by_part(rows: Sequence[MetricRow], seconds: float) -> dict[str, float]:
    """Split the duration of a run into the parts that its metrics named `..._seconds` measure.

    Args:
        rows: Lines of `metrics.jsonl`.
        seconds: Duration to split; see `write_training`.

    Returns:
        Name of the part -> seconds. The name is that of the metric without `_seconds`. The time that no such metric
        measures is the part `other`; without any such metric, all of it is the part `training`.
    """
    ending = "_seconds"
    measured = dict.fromkeys(name for row in rows for name in row if name.endswith(ending))
    parts = {name.removesuffix(ending): float(sum(row.get(name, 0.0) for row in rows)) for name in measured}
    rest = "other" if parts else "training"
    return {**parts, rest: parts.get(rest, 0.0) + max(0.0, seconds - sum(parts.values()))}


def recovered_images(run: TrainingRun, method_name: str, zoo: Zoo) -> list[PageSheet]:
    """Draw a contact sheet of the newest images of the first classes that a run keeps images of.

    Args:
        run: The run after training (`Method.run_`).
        method_name: Name of the method.
        zoo: The zoo that it was trained on.

    Returns:
        One sheet, or none if the run keeps no images.
    """
    images_by_class = ((name, run.images(index, _MAX_IMAGES)) for index, name in enumerate(zoo.classes.names))
    some = itertools.islice(((name, images) for name, images in images_by_class if len(images)), _MAX_CLASSES)
    rows = [Row(name, resize_and_crop(images, min(images.shape[-1], _MAX_SIDE))) for name, images in some]
    if not rows:
        return []
    sheet = render_contact_sheet([Block(method_name, rows, f"{len(rows)} of {len(zoo.classes)} classes")])
    picture = PagePicture.from_image(sheet, "Recovered images, one row per class.")
    caption = f"{run.images_caption.rstrip('.')}. One row per class: its newest images at the end of the training."
    return [PageSheet("Recovered images", caption, picture)]
