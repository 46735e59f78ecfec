"""Control characters and marks of direction are written out; everything else stays as it is."""

from __future__ import annotations

import os

import pytest

from dfml.plain_text import plain_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red \x1b[31mred\x07", r"red \x1b[31mred\x07"),
        ("a\rb\x00\x9b", r"a\rb\x00\x9b"),
        ("right\u202eleft\u2066", r"right\u202eleft\u2066"),
        ("two\u2028lines", r"two\u2028lines"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, expected: str) -> None:
    assert plain_text(text) == expected
    assert plain_text(text).encode()


@pytest.mark.parametrize("text", ["", "a\tb\nc", "Κάτι", "שלום", "猫 🐈 👩‍👩‍👧", "[brackets] <b> \\x1b"])
def test_other_text_stays(text: str) -> None:
    assert plain_text(text) == text
