from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from rich.table import Table

from dfml.cli.output import Output, require_writable, to_json
from dfml.errors import UsageError


def test_numbers_that_json_cannot_represent_are_null() -> None:
    values = {"nan": math.nan, "nested": [math.inf, (1.5, {2: -math.inf})], "path": Path("a/b"), "none": None}
    assert json.loads(to_json(values)) == {
        "nan": None,
        "nested": [None, [1.5, {"2": None}]],
        "path": "a/b",
        "none": None,
    }


def test_results_go_to_a_file_and_messages_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(tmp_path / "results.json")
    output.say("a message in [brackets]")
    output.results({"value": 1})
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["value"] == 1
    assert written["seconds"] >= 0
    assert capsys.readouterr() == ("a message in [brackets]\n", "")


def test_with_a_dash_results_are_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(Path("-"))
    output.say("a message")
    output.results({"value": 1})
    shown = capsys.readouterr()
    assert json.loads(shown.out)["value"] == 1
    assert shown.err == "a message\n"


def test_without_a_file_results_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    Output().results({"value": 1})
    assert capsys.readouterr() == ("", "")


def test_long_messages_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    Output().say("word " * 100)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable("--json", tmp_path / "file")
    require_writable("--json", tmp_path / "new")
    for path in (tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(UsageError, match=r"--json .* cannot be written"):
            require_writable("--json", path)


def test_control_characters_of_labels_reach_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    label = "\x1b[2Jred\u202egreen"
    table = Table("label")
    table.add_row(label)
    output = Output()
    output.say(f"merged class {label}")
    output.show(table)
    shown = capsys.readouterr().out
    assert not set("\x1b\u202e") & set(shown)
    assert shown.count(r"\x1b[2Jred\u202egreen") == 2
    assert "┃" in shown or "|" in shown  # the table's own lines stay


def test_a_name_that_is_no_text_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    Output().say(os.fsdecode(b"zoo/caf\xe9"))
    assert capsys.readouterr().out == "zoo/caf\\udce9\n"
