"""Errors and warnings are one line, whatever other people's text is in them."""

from __future__ import annotations

import pytest

from dfml.cli.error_handling import show_error, show_warning

TEXT = "a\x1b[31mb\u202e\nc"


def test_an_error_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(TEXT)
    assert capsys.readouterr().err == "error: a\\x1b[31mb\\u202e c\n"


def test_so_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    show_warning(TEXT, UserWarning, "file.py", 1)
    assert capsys.readouterr().err == "warning: a\\x1b[31mb\\u202e c\n"
