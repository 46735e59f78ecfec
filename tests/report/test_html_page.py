"""The page is self-contained, shows the numbers of the evaluations, and escapes all text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dfml.evaluation.protocol import compare
from dfml.report.figures import to_svg
from dfml.report.html_page import (
    Page,
    PageFigure,
    PagePicture,
    PagePrediction,
    PageSheet,
    PageTask,
    render_page,
    write_page,
)
from dfml.report.learning_curve import learning_curve
from tests.report.evaluations import evaluation

HOSTILE = '"><script src="https://evil.example/x.js">alert(1)</script><img src=x onerror=alert(1)>&amp;\''
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Collects elements with their attributes, and text; fails if an element is not closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(words: str = "a sentence", name: str = "purer") -> Page:
    """A page with every part, all of whose texts are `words`."""
    first, second = evaluation(name, 0.6, note=words), evaluation("random_init", 0.3)
    picture = PagePicture(b"\x89PNG", words)
    return Page(
        title=words,
        summary=words,
        evaluations=[first, second],
        command=words,
        meaning=[words],
        differences=[compare(first, second)],
        training_seconds={name: 60.0},
        figures=[PageFigure(words, words, to_svg(learning_curve({"purer": {1: first}}), "one", themed=True))],
        sheets=[PageSheet(words, words, picture)],
        task=PageTask(words, {words: [picture]}, [PagePrediction(picture, "other", 0.5, words)]),
        stages={words: 1.0},
        settings={"seed": 0, "nested": {words: [1, 2.5, None, words]}},
        versions={words: words},
    )


def test_page_loads_nothing() -> None:
    html = render_page(page())
    reader = Reader(html)
    for tag, attributes in reader.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action", "poster"):
                assert value.startswith(("data:image/png;base64,", "#"))
    styles = "".join(re.findall(r"<style>.*?</style>", html, re.DOTALL))
    assert "@import" not in styles
    assert not re.findall(r"url\((?!#)", html)
    assert not re.findall(r"https?://(?!www\.w3\.org/)", html)  # the rest are names of XML namespaces


def test_labels_cannot_become_markup() -> None:
    reader = Reader(render_page(page(HOSTILE, name=HOSTILE)))
    assert not [tag for tag, _ in reader.elements if tag == "script"]
    assert not [attributes for _, attributes in reader.elements if any(name.startswith("on") for name in attributes)]
    assert [attributes["alt"] for tag, attributes in reader.elements if tag == "img"] == [HOSTILE] * 3
    assert HOSTILE in reader.text


def test_table_shows_the_numbers_of_the_evaluations() -> None:
    content = page()
    text = " ".join(Reader(render_page(content)).text.split())
    for each in content.evaluations:
        assert re.search(rf"{each.name} {100 * each.accuracy:.2f} {100 * each.ci:.2f}", text)
    difference = content.differences[0]
    assert f"purer - random_init {100 * difference.mean:+.2f} {100 * difference.ci:.2f}" in text
    assert "40 episodes, 5-way 1-shot, 15 query images per class, protocol strict, seed 0" in text


def test_leading_rows_of_the_table_are_highlighted() -> None:
    for highlighted in (1, 2):
        rows = [
            attributes
            for tag, attributes in Reader(render_page(replace(page(), highlighted=highlighted))).elements
            if tag == "tr"
        ]
        assert [row.get("class") for row in rows].count("first") == highlighted


def test_missing_parts_have_no_headings() -> None:
    bare = Page(title="t", summary="s", evaluations=[evaluation()], command="c")
    text = Reader(render_page(bare)).text
    assert "Results" in text
    for heading in (
        "differences",
        "Figures",
        "One new task",
        "What the table shows",
        "All settings",
        "Versions",
        "Messages",
    ):
        assert heading not in text


def test_without_evaluations_there_is_no_table() -> None:
    text = Reader(render_page(Page(title="t", summary="s", command="c", notes=["a member was excluded"]))).text
    assert "Results" not in text
    assert "a member was excluded" in text
    assert "Messages" in text


def test_wrong_predictions_are_marked() -> None:
    content = page("alpha")
    assert content.task is not None
    right = replace(content.task.predictions[0], label="alpha")
    text = Reader(
        render_page(replace(content, task=replace(content.task, predictions=[*content.task.predictions, right])))
    ).text
    assert "✗" in text
    assert "other," in text
    assert text.count("✓") == 1


def test_an_interval_from_one_episode_does_not_break_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(Page(title="t", summary="s", evaluations=[evaluation(episodes=1)], command="c"), path)
    assert Reader(path.read_text(encoding="utf-8")).text


@pytest.mark.parametrize("scheme", ["prefers-color-scheme: dark", "max-width: 40rem", "viewport"])
def test_page_adapts_to_dark_mode_and_phones(scheme: str) -> None:
    assert scheme in render_page(page())


def test_control_characters_and_marks_of_direction_are_written_out() -> None:
    read = Reader(render_page(page(words="a \x1b[31mred\x07 and \u202eleft label")))
    assert not set("\x1b\x07\u202e") & set(read.text)
    assert r"a \x1b[31mred\x07 and \u202eleft label" in read.text
