"""The page of the playground: gradio's components around `PlaygroundSession`; all of gradio is used here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr
from fastapi import FastAPI

from dfml.errors import DfmlError
from dfml.learners import MetaLearner
from dfml.playground.answer_html import STYLE, predictions_html, status_html
from dfml.playground.example_images import ExampleImages
from dfml.playground.session import MOST_CLASSES, PlaygroundSession
from dfml.playground.zoo_tab import zoo_tab
from dfml.playground.zoo_view import ZooView

_LARGEST_FILE = "20mb"

_CSS = (
    STYLE
    + """
.gradio-container { max-width: 84rem !important; }
.html-container { padding: 0 !important; }
.of-class { border: 1px solid var(--border-color-primary) !important; border-radius: .5rem !important; }
.of-class .head { align-items: center; flex-wrap: nowrap; padding: .5rem; gap: .5rem;
  background: var(--block-background-fill); }
.of-class .head input, .of-class .head textarea { border: 1px solid var(--border-color-primary) !important;
  border-radius: .35rem !important; padding: .35rem .6rem; }
.of-class .block { border-width: 0 !important; }
.images .grid-container { padding-top: 2rem !important; gap: .4rem;
  grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)) !important; }
.images.block { height: auto !important; min-height: 9rem; max-height: 20rem; }
.images .grid-wrap { height: auto !important; max-height: 19rem; }
.images .thumbnail-lg { height: auto; aspect-ratio: 1; }
button:focus-visible, a:focus-visible, input:focus-visible, textarea:focus-visible {
  outline: 3px solid #2563eb !important; outline-offset: 2px; }
"""
)


Gallery = list[tuple[str, str | None]] | None
"""Value of a gallery: (path, caption) of every image."""


@dataclass(frozen=True)
class _Place:
    """Components of the place of one class; `MOST_CLASSES` places exist, and those in use are visible."""

    group: gr.Group
    name: gr.Textbox
    remove: gr.Button
    gallery: gr.Gallery
    folder: gr.UploadButton


def build_app(
    learner: MetaLearner, source: str, view: Callable[[], ZooView], examples: ExampleImages | None, files: Path
) -> gr.Blocks:
    """Build the page.

    Args:
        learner: Learner that all visitors adapt.
        source: Where it comes from, for the heading.
        view: Opens the zoo for the second tab, when the tab is first shown.
        examples: Example images of the button that fills in classes; None: there is no such button.
        files: Folder for the files that visitors save.
    """
    with gr.Blocks(title="dfml playground", analytics_enabled=False) as app:
        session = gr.State()
        gr.HTML(_heading(learner, source))
        with gr.Tabs():
            with gr.Tab("Classifier"), gr.Row():
                with gr.Column(scale=3, min_width=340):
                    places = [_place(number) for number in range(MOST_CLASSES)]
                    add = gr.Button("Add a class")
                    example = gr.Button("Fill in example letters", visible=examples is not None)
                    save = gr.Button("Save the classifier", variant="primary", interactive=False)
                    saved = gr.File(
                        label="Unzip it, then: dfml predict classifier IMAGE...",
                        visible=False,
                        interactive=False,
                        elem_id="saved",
                    )
                with gr.Column(scale=3, min_width=340):
                    tests = gr.Gallery(
                        label="Test images",
                        interactive=True,
                        sources=["upload", "webcam"],
                        elem_id="tests",
                        elem_classes="images",
                        buttons=[],
                        height=200,
                        file_types=["image"],
                    )
                    status, predictions = gr.HTML(elem_id="status"), gr.HTML(elem_id="predictions")
            with gr.Tab("Zoo") as tab:
                zoo_tab(tab, view)
        answer = [status, predictions, save, saved]

        def start() -> list[Any]:
            opened = PlaygroundSession(learner)
            return [opened, *_show(opened)]

        app.load(start, None, [session, *answer], **_QUIET)
        for number, place in enumerate(places):
            _connect(number, place, session, answer)
        _connect_tests(tests, session, answer)
        add.click(_add, session, [add, *(each.group for each in places)], **_QUIET)
        if examples is not None:
            _connect_examples(example, examples, places, tests, session, answer)
        save.click(lambda opened: _save(opened, files), session, saved, **_QUIET)
    return app


def mount(app: gr.Blocks, host: str, port: int) -> FastAPI:
    """Make a web application of the page, without the parts of gradio that need or name another machine.

    Args:
        app: The page.
        host: Address that it is served at.
        port: Port that it is served at.
    """
    # The fonts of the visitor's system, so that none is loaded.
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    mounted: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        app,
        path="/",
        server_name=host,
        server_port=port,
        theme=theme,
        css=_CSS,
        footer_links=[],
        run_history=False,
        max_file_size=_LARGEST_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    return mounted


_QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_id": "session",  # one event at a time: they share the processor
    "concurrency_limit": 1,
}


def _heading(learner: MetaLearner, source: str) -> str:
    size = learner.preprocessing.size
    return (
        '<div class="dfml"><h1 style="margin:.2rem 0">dfml playground</h1><p class="soft">'
        f"Name classes, give each a few images, then try test images. Learner: {escape(learner.name)} from "
        f"{escape(source)}, {size} x {size} pixels. Nothing leaves this machine.</p></div>"
    )


def _place(number: int) -> _Place:
    with gr.Group(visible=number < 2, elem_id=f"class-{number}", elem_classes="of-class") as group:
        with gr.Row(elem_classes="head"):
            name = gr.Textbox(
                f"Class {number + 1}",
                label=f"Name of class {number + 1}",
                show_label=False,
                container=False,
                placeholder="Name of the class",
                max_lines=1,
                scale=4,
                min_width=120,
            )
            folder = gr.UploadButton("Add a folder", file_count="directory", size="sm", scale=0, min_width=100)
            remove = gr.Button("Remove", size="sm", scale=0, min_width=80)
        gallery = gr.Gallery(
            label="Images",
            interactive=True,
            sources=["upload", "webcam"],
            elem_classes="images",
            buttons=[],
            height=170,
            file_types=["image"],
            show_label=False,
        )
    return _Place(group, name, remove, gallery, folder)


def _connect(number: int, place: _Place, session: gr.State, answer: list[Any]) -> None:
    def change(opened: PlaygroundSession, name: str, images: Gallery) -> list[Any]:
        paths = _paths(images)
        if opened.holds(number, name, paths):  # the event that an output of this function has caused
            return [gr.skip()] * (1 + len(answer))
        problems = opened.set_class(number, name, paths)
        kept = [str(image.path) for image in opened.classes[number].images]
        return [kept if problems else gr.skip(), *_show(opened, problems)]

    def add_folder(opened: PlaygroundSession, name: str, images: Gallery, files: list[str] | None) -> list[Any]:
        problems = opened.set_class(number, name, [*_paths(images), *(files or [])])
        return [[str(image.path) for image in opened.classes[number].images], *_show(opened, problems)]

    def remove(opened: PlaygroundSession) -> list[Any]:
        opened.remove_class(number)
        return [gr.update(visible=False), f"Class {number + 1}", [], *_show(opened)]

    inputs, outputs = [session, place.name, place.gallery], [place.gallery, *answer]
    place.gallery.change(change, inputs, outputs, **_QUIET)
    place.name.blur(change, inputs, outputs, **_QUIET)
    place.name.submit(change, inputs, outputs, **_QUIET)
    place.folder.upload(add_folder, [*inputs, place.folder], outputs, **_QUIET)
    place.remove.click(remove, session, [place.group, place.name, place.gallery, *answer], **_QUIET)


def _connect_tests(tests: gr.Gallery, session: gr.State, answer: list[Any]) -> None:
    def change(opened: PlaygroundSession, images: Gallery) -> list[Any]:
        paths = _paths(images)
        if paths == [str(image.path) for image in opened.tests]:
            return [gr.skip()] * (1 + len(answer))
        problems = opened.set_tests(paths)
        return [[str(image.path) for image in opened.tests] if problems else gr.skip(), *_show(opened, problems)]

    tests.change(change, [session, tests], [tests, *answer], **_QUIET)


def _connect_examples(
    button: gr.Button,
    examples: ExampleImages,
    places: list[_Place],
    tests: gr.Gallery,
    session: gr.State,
    answer: list[Any],
) -> None:
    first = places[: len(examples.names)]

    def fill(opened: PlaygroundSession) -> list[Any]:
        classes, queries = examples.files()
        for number, (name, paths) in enumerate(classes.items()):
            opened.set_class(number, name, paths)
        opened.set_tests(queries)
        groups = [gr.update(visible=True) for _ in first]
        return [gr.update(visible=False), *groups, *classes, *classes.values(), queries, *_show(opened)]

    outputs = [*(each.group for each in first), *(each.name for each in first), *(each.gallery for each in first)]
    button.click(fill, session, [button, *outputs, tests, *answer], **_QUIET)


def _add(opened: PlaygroundSession) -> list[Any]:
    number = opened.add_place()
    full = len(opened.places) == MOST_CLASSES
    button = gr.update(interactive=False, value=f"At most {MOST_CLASSES} classes") if full else gr.skip()
    return [button, *(gr.update(visible=True) if each == number else gr.skip() for each in range(MOST_CLASSES))]


def _show(opened: PlaygroundSession, problems: list[str] | None = None) -> list[Any]:
    """Values of the answer's components; a file that was saved before is hidden, since it is not this classifier."""
    found = opened.answer()
    return [
        status_html(found, problems or []),
        predictions_html(found, opened.learner.preprocessing.size),
        gr.update(interactive=found.problem is None),
        gr.update(visible=False, value=None),
    ]


def _save(opened: PlaygroundSession, folder: Path) -> Any:
    try:
        return gr.update(visible=True, value=str(opened.save(Path(mkdtemp(dir=folder)) / "classifier.zip")))
    except (DfmlError, OSError) as error:
        raise gr.Error(str(error)) from error


def _paths(images: Gallery) -> list[str]:
    return [path for path, _ in images or []]
