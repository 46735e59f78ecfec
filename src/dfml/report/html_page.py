"""One self-contained HTML page: what was done, what came out, and how to do it again. Nothing in it is fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfml.evaluation.protocol import Difference, Evaluation
from dfml.files import atomic_write
from dfml.report.table import differences_table, results_table
from dfml.training.run_folder import flatten

if TYPE_CHECKING:
    from PIL import Image

_TEMPLATE = "page.html"


@dataclass(frozen=True)
class PageFigure:
    """A drawing.

    Attributes:
        title: Above it.
        caption: Below it; says how to read it.
        svg: From `dfml.report.figures.to_svg`, themed. It is put on the page as it is.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class PagePicture:
    """An image.

    Attributes:
        png: The file's bytes.
        alt: What is on it, for who cannot see it.
    """

    png: bytes
    alt: str

    @classmethod
    def of(cls, image: Image.Image, alt: str) -> PagePicture:
        """An image as a file."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return cls(buffer.getvalue(), alt)

    @property
    def uri(self) -> str:
        """The image inside its own address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class PageSheet:
    """A large picture with its own heading; the attributes are those of a figure."""

    title: str
    caption: str
    picture: PagePicture


@dataclass(frozen=True)
class PagePrediction:
    """What a classifier said of an image.

    Attributes:
        picture: The image.
        label: The most probable class.
        probability: A fraction.
        truth: The right class.
    """

    picture: PagePicture
    label: str
    probability: float
    truth: str


@dataclass(frozen=True)
class PageTask:
    """One few-shot task, from its support images to the answers.

    Attributes:
        caption: What is to be seen.
        support: Class -> the images that the classifier was made from.
        predictions: Of images that it had not seen.
    """

    caption: str
    support: Mapping[str, Sequence[PagePicture]]
    predictions: Sequence[PagePrediction]


@dataclass(frozen=True)
class Page:
    """What a page tells. Everything but the figures' SVG is escaped.

    Attributes:
        title: The heading.
        summary: What was done, in one sentence.
        command: What to type to get the same again.
        evaluations: Of the same episodes; the first ones are what the page is about. None: there is no table.
        meaning: Paragraphs: what the table says, in plain words.
        differences: Pairs worth showing.
        training_seconds: By the learner's name.
        figures: In order.
        sheets: In order.
        task: One task in pictures.
        stages: What was done one after the other -> seconds.
        settings: Nested plain values.
        versions: Of what computed it.
        notes: What went otherwise than one would expect.
        subjects: How many evaluations the page is about.
    """

    title: str
    summary: str
    command: str
    evaluations: Sequence[Evaluation] = ()
    meaning: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    training_seconds: Mapping[str, float] | None = None
    figures: Sequence[PageFigure] = ()
    sheets: Sequence[PageSheet] = ()
    task: PageTask | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    subjects: int = 1


def render_page(page: Page) -> str:
    """The page as one HTML document without any address of another file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dfml.report"),
        autoescape=True,
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
    """Write the page.

    Raises:
        OSError: If the file cannot be written.
    """
    atomic_write(path, render_page(page))


def describe_episodes(evaluation: Evaluation) -> str:
    """What an evaluation was made on, in one line."""
    return (
        f"{evaluation.dataset}: {len(evaluation.accuracies)} episodes, {evaluation.way}-way {evaluation.shot}-shot, "
        f"{evaluation.query} query images a class, protocol {evaluation.protocol}, seed {evaluation.seed}"
    )


def _bar(evaluation: Evaluation) -> dict[str, float]:
    """Accuracy and the ends of its interval on a scale of 100."""
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
