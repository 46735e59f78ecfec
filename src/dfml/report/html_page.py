"""One self-contained HTML page with tables, figures, images and settings. It loads nothing from other places."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import Difference, Evaluation
from dfml.files import atomic_write
from dfml.plain_text import plain_text
from dfml.report.table import Table, differences_table, results_table
from dfml.training.run_folder import flatten

if TYPE_CHECKING:
    from PIL import Image

_TEMPLATE = "page.html"


@dataclass(frozen=True)
class PageFigure:
    """A vector figure.

    Attributes:
        title: Heading above the figure.
        caption: Text below the figure that says how to read it.
        svg: SVG element from `dfml.report.figures.to_svg` with `themed=True`. It is not escaped.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class PagePicture:
    """A pixel image.

    Attributes:
        png: Content of a PNG file.
        alt: Text alternative for screen readers.
    """

    png: bytes
    alt: str

    @classmethod
    def from_image(cls, image: Image.Image, alt: str) -> PagePicture:
        """Encode an image of Pillow as PNG."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return cls(buffer.getvalue(), alt)

    @property
    def uri(self) -> str:
        """The image as a `data:` URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class PageTable:
    """A table in a section of its own.

    Attributes:
        title: Heading of the section.
        caption: Text above the table that says how to read it.
        table: The table.
    """

    title: str
    caption: str
    table: Table


@dataclass(frozen=True)
class PageSheet:
    """A large picture in a section of its own.

    Attributes:
        title: Heading of the section.
        caption: Text below the picture.
        picture: The picture.
    """

    title: str
    caption: str
    picture: PagePicture


@dataclass(frozen=True)
class PagePrediction:
    """A classifier's prediction for one image.

    Attributes:
        picture: The image.
        label: The most probable class.
        probability: Probability of that class, in [0, 1].
        truth: The true class.
    """

    picture: PagePicture
    label: str
    probability: float
    truth: str


@dataclass(frozen=True)
class PageTask:
    """One few-shot task, from its support images to the predictions for its query images.

    Attributes:
        caption: Text above the images.
        support: Class -> support images.
        predictions: Predictions for the query images.
    """

    caption: str
    support: Mapping[str, Sequence[PagePicture]]
    predictions: Sequence[PagePrediction]


@dataclass(frozen=True)
class Page:
    """Content of a page. All text is escaped; only the SVG of the figures is not.

    Attributes:
        title: Heading of the page.
        summary: One sentence that says what was done.
        command: Command that repeats it.
        evaluations: Evaluations on the same episodes, one row each; empty: no table of results.
        meaning: Paragraphs that explain the table.
        differences: Paired differences to show.
        tables: Further tables, each in a section of its own.
        training_seconds: Learner's name -> duration of its training; None omits the column.
        figures: Figures, in order.
        sheets: Large pictures, in order.
        task: One few-shot task with its images; None omits the section.
        stages: Stage of the work -> seconds.
        settings: Nested plain values.
        versions: Package -> version.
        notes: Events that a reader should know of, such as an excluded member.
        highlighted: Number of leading rows of the table of results that are highlighted; default 1.
        refresh: Seconds after which a browser loads the page again; None: never.
    """

    title: str
    summary: str
    command: str
    evaluations: Sequence[Evaluation] = ()
    meaning: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    tables: Sequence[PageTable] = ()
    training_seconds: Mapping[str, float] | None = None
    figures: Sequence[PageFigure] = ()
    sheets: Sequence[PageSheet] = ()
    task: PageTask | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    highlighted: int = 1
    refresh: int | None = None


def _without_controls(value: Any) -> Any:
    """Labels and names as they are written into a page; what is markup already stays."""
    return plain_text(value) if type(value) is str else value


def render_page(page: Page) -> str:
    """Render a page as one HTML document that refers to no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dfml.report"),
        autoescape=True,
        finalize=_without_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        page=page,
        protocol=" ".join(map(describe_episodes, page.evaluations[:1])),
        results=results_table(page.evaluations, page.training_seconds),
        bars=[_bar(each) for each in page.evaluations],
        chance=100 / page.evaluations[0].way if page.evaluations else None,
        differences=differences_table(page.differences),
        settings={name: _plain(value) for name, value in flatten(dict(page.settings)).items()},
        total=sum(page.stages.values()),
    )


def write_page(page: Page, path: Path) -> None:
    """Write a page to a file, which is complete or absent.

    Raises:
        OSError: If the file cannot be written.
    """
    atomic_write(path, render_page(page))


def describe_episodes(evaluation: Evaluation) -> str:
    """Describe dataset, episodes, protocol and seed of an evaluation in one line."""
    return (
        f"{evaluation.dataset}: {len(evaluation.accuracies)} episodes, {evaluation.task}, "
        f"{evaluation.query} query images per class, protocol {evaluation.protocol}, seed {evaluation.seed}"
    )


def _bar(evaluation: Evaluation) -> dict[str, float]:
    """Accuracy and the ends of its confidence interval, in percent."""
    low, high = evaluation.accuracy - evaluation.ci, evaluation.accuracy + evaluation.ci
    return {
        "value": round(100 * evaluation.accuracy, 3),
        "low": round(100 * max(0.0, low), 3),
        "high": round(100 * min(1.0, high), 3),
    }


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value) or "none"
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)
