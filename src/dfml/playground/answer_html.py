"""The answer of a session as HTML. Labels and file names are escaped; colours follow the light or dark theme."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jaxtyping import Float
from torch import Tensor

from dfml.images import to_float, to_pil
from dfml.playground.session import NearestImage, PlaygroundAnswer, PlaygroundImage, PlaygroundPrediction
from dfml.report.html_page import PagePicture

_SHOWN_LABELS = 5  # of a prediction; further ones are counted

STYLE = """
.dfml { --soft: #57606a; color: var(--body-text-color); line-height: 1.4; }
.dark .dfml { --soft: #a9b3bd; }
.dfml p { margin: 0 0 .35rem; }
.dfml .soft { color: var(--soft); font-size: .875rem; }
.dfml .warn, .dfml .ready { padding: .45rem .7rem; border-left: 4px solid; border-radius: .25rem;
  overflow-wrap: anywhere; background: var(--background-fill-secondary); }
.dfml .warn { border-color: #d97706; }
.dfml .ready { border-color: #059669; }
.dfml ul { list-style: none; margin: 0; padding: 0; }
.dfml .prediction { display: grid; grid-template-columns: 4.5rem minmax(9rem, 1fr) auto; gap: .3rem .9rem;
  align-items: start; padding: .8rem 0; border-top: 1px solid var(--border-color-primary); }
.dfml .prediction > .warn { grid-column: 1 / -1; margin: .2rem 0 0; font-size: .875rem; }
.dfml .prediction .file { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.dfml .prediction > div { min-width: 0; }
.dfml img { display: block; border-radius: .25rem; image-rendering: pixelated; }
.dfml .test img { width: 4.5rem; height: 4.5rem; }
.dfml .near span { display: block; font-size: .75rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; color: var(--soft); }
.dfml .label { display: grid; grid-template-columns: minmax(0, 1fr) 3.4rem; column-gap: .6rem; font-size: .875rem; }
.dfml .label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.dfml .label b { font-weight: 500; text-align: right; font-variant-numeric: tabular-nums; }
.dfml .label:first-child { font-weight: 600; }
.dfml .bar { grid-column: 1 / -1; height: .3rem; border-radius: .15rem; margin-bottom: .3rem;
  background: var(--border-color-primary); }
.dfml .bar i { display: block; height: 100%; border-radius: .15rem; background: #2563eb; min-width: 1px; }
.dark .dfml .bar i { background: #60a5fa; }
.dfml .near { display: grid; grid-template-columns: repeat(3, 3.6rem); gap: .4rem; }
.dfml .near p { grid-column: 1 / -1; margin: 0; font-size: .75rem; }
.dfml .near img { width: 3.6rem; height: 3.6rem; }
.dfml .tiles { display: grid; grid-template-columns: minmax(5rem, 9rem) 1fr; gap: .5rem 1rem; align-items: center; }
.dfml .tiles > b { font-weight: 500; overflow-wrap: anywhere; }
.dfml .tiles > div { display: flex; flex-wrap: wrap; gap: 3px; }
.dfml .tiles img { width: 3.6rem; height: 3.6rem; }
@media (max-width: 30rem) {
  .dfml .prediction { grid-template-columns: 4.5rem minmax(0, 1fr); }
  .dfml .near { grid-column: 1 / -1; grid-template-columns: repeat(3, 4.5rem); }
  .dfml .near img { width: 4.5rem; height: 4.5rem; }
  .dfml .tiles { grid-template-columns: 1fr; }
}
"""
"""Style of the HTML of this module, for the page's head."""


def status_html(answer: PlaygroundAnswer, problems: Sequence[str] = ()) -> str:
    """What the classes come to, in sentences that screen readers announce.

    Args:
        answer: Answer of the session.
        problems: Sentences about the files of the last upload.
    """
    lines = [_line("warn", text) for text in problems]
    if answer.problem:
        lines.append(_line("soft" if not problems and answer.is_start else "warn", answer.problem))
    else:
        images = sum(answer.counts.values())
        lines.append(
            _line("ready", f"Adapted to {len(answer.counts)} classes and {images} images in {answer.seconds:.2f} s.")
        )
    lines += [_line("soft", text) for text in answer.notes]
    return f'<div class="dfml" role="status">{"".join(lines)}</div>'


def predictions_html(answer: PlaygroundAnswer, size: int) -> str:
    """One row per test image: the image, its probabilities, the support images that speak for them, a warning.

    Args:
        answer: Answer of the session.
        size: Side length in pixels at which the learner works.
    """
    if not answer.predictions:
        return ""
    rows = "".join(_prediction(each) for each in answer.predictions)
    caption = f"Images are shown as the learner sees them, {size} x {size} pixels."
    return f'<div class="dfml"><ul aria-label="Predictions">{rows}</ul>{_line("soft", caption)}</div>'


def recovered_html(text: str, classes: Sequence[tuple[str, Float[Tensor, "_images 3 _size _size"]]]) -> str:
    """Recovered images of a member: a sentence about them, and one row per class.

    Args:
        text: The sentence.
        classes: Label and images in [0, 1] of every class.
    """
    rows = "".join(
        f"<b>{escape(label)}</b><div>{''.join(_picture(image, label) for image in images) or _NONE}</div>"
        for label, images in classes
    )
    return f'<div class="dfml">{_line("soft", text)}<div class="tiles">{rows}</div></div>'


_NONE = '<span class="soft">none kept</span>'


def message_html(text: str) -> str:
    """One sentence in place of what cannot be shown."""
    return f'<div class="dfml" role="status">{_line("warn", text)}</div>'


def _prediction(prediction: PlaygroundPrediction) -> str:
    shown = prediction.probabilities[:_SHOWN_LABELS]
    bars = "".join(
        f'<div class="label"><span title="{escape(label)}">{escape(label)}</span><b>{probability:.1%}</b>'
        f'<div class="bar"><i style="width:{probability:.1%}"></i></div></div>'
        for label, probability in shown
    )
    rest = len(prediction.probabilities) - len(shown)
    more = _line("soft", f"and {rest} less probable classes") if rest else ""
    warning = ""
    if prediction.unlike:
        best, least = prediction.nearest[0].similarity, prediction.threshold
        warning = _line(
            "warn", f"Unlike all classes: similarity {best:.2f}; the classes' own images have at least {least:.2f}."
        )
    return (
        f'<li class="prediction"><div class="test">{_of_file(prediction.image, "test image")}</div>'
        f'<div><p class="soft file">{escape(prediction.image.name)}</p>{bars}{more}</div>'
        f"{_nearest(prediction.nearest)}{warning}</li>"
    )


def _nearest(nearest: Sequence[NearestImage]) -> str:
    if not nearest:
        return ""
    figures = "".join(
        f'<div title="{escape(each.image.name)}">{_of_file(each.image, "support image of " + each.label)}'
        f"<span>{escape(each.label)}</span><span>{each.similarity:.2f}</span></div>"
        for each in nearest
    )
    return f'<div class="near"><p class="soft">most similar images</p>{figures}</div>'


def _of_file(image: PlaygroundImage, what: str) -> str:
    return _picture(to_float(image.pixels), f"{what}, {image.name}")


def _picture(image: Tensor, alt: str) -> str:
    return f'<img src="{PagePicture.from_image(to_pil(image), alt).uri}" alt="{escape(alt)}">'


def _line(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>'
