"""The zoo tab: a table of the members, and the recovered images of the chosen one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr

from dfml.errors import DfmlError
from dfml.playground.answer_html import message_html, recovered_html
from dfml.playground.zoo_view import ZooView

_OPTIONS: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "session", "concurrency_limit": 1}


def zoo_tab(tab: gr.Tab, open_view: Callable[[], ZooView]) -> None:
    """Fill the tab; the zoo is opened when the tab is first shown.

    Args:
        tab: The tab, within whose context this is called.
        open_view: Opens the zoo; a `DfmlError` is shown in place of it.
    """
    heading = gr.HTML(elem_id="zoo-heading")
    chosen = gr.Dropdown(label="Member", visible=False, elem_id="member")
    images = gr.HTML(elem_id="recovered")
    table = gr.Dataframe(visible=False, interactive=False, wrap=True, label="Members", elem_id="members")
    view = cache(open_view)

    def show() -> list[Any]:
        try:
            opened = view()
            rows = opened.rows()
            shown = _images(opened, 0)
        except DfmlError as error:
            hidden = gr.update(visible=False)
            return [message_html(f"There is no zoo to show: {error}."), hidden, "", hidden]
        names = [(row[0], index) for index, row in enumerate(rows)]
        return [
            recovered_html(f"{len(rows)} members. Source: {opened.source}.", []),
            gr.update(visible=True, choices=names, value=0),
            shown,
            gr.update(visible=True, value={"headers": list(opened.headings), "data": rows}),
        ]

    tab.select(show, None, [heading, chosen, images, table], show_progress="minimal", **_OPTIONS)
    chosen.input(lambda member: _images(view(), member), chosen, images, show_progress="minimal", **_OPTIONS)


def _images(view: ZooView, member: int) -> str:
    try:
        found = view.recovered(member)
        return recovered_html(view.fidelity(member, found), found)
    except DfmlError as error:
        return message_html(f"The images of this member cannot be shown: {error}.")
