"""Class names are read from every form in which people keep them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.errors import ConfigError
from dfml.zoo.label_files import labels_in, read_labels


@pytest.mark.parametrize(
    "text",
    [
        '["ant", "bee, large"]',
        '{"0": "ant", "1": "bee, large"}',
        '{"bee, large": 1, "ant": 0}',
        '{"id2label": {"0": "ant", "1": "bee, large"}, "version": 2}',
        '{"version": "2", "classes": ["ant", "bee, large"]}',
        "ant\nbee, large\n",
        "\ufeffant\r\nbee, large\r\n\r\n",
        "0: ant\n1: bee, large\n",
        "0,ant\n1,bee, large\n",
        "n01440764 ant\nn01443537 bee, large\n",
    ],
)
def test_two_names_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").write_bytes(text.encode())
    assert read_labels(tmp_path / "labels") == ("ant", "bee, large")


def test_lines_that_begin_with_other_numbers_are_names(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("20 km/h\n30 km/h\n")
    assert read_labels(tmp_path / "labels") == ("20 km/h", "30 km/h")
    (tmp_path / "labels").write_text("n01440764\nn01443537\n")
    assert read_labels(tmp_path / "labels") == ("n01440764", "n01443537")


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip() == text), min_size=1, max_size=20, unique=True))
def test_a_list_its_numbered_mapping_and_its_inverse_are_the_same(names: list[str]) -> None:
    numbered = {str(index): name for index, name in enumerate(names)}
    assert labels_in(names) == labels_in(numbered) == labels_in(json.loads(json.dumps(numbered))) == tuple(names)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "cat",
        [1, 2],
        ["a", ""],
        ["a", "a"],
        {0: "a", 2: "b"},
        {"a": "b"},
        {"a": 1, "b": 2},
        [["a"]],
        {0: ["a"]},
    ],
)
def test_other_values_are_no_names(value: Any) -> None:
    assert labels_in(value) == ()


@pytest.mark.parametrize("text", ["", "\n\n", "[]", "a\na\n", '{"a": 1}', "[" * 10_000])
def test_a_file_without_distinct_names_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").write_text(text)
    if text.startswith("[["):
        assert read_labels(tmp_path / "labels") == (text,)
        return
    with pytest.raises(ConfigError, match="expected distinct class names"):
        read_labels(tmp_path / "labels")


def test_what_is_no_text_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("pipe", "bytes", "missing"):
        with pytest.raises(ConfigError, match="expected a text file"):
            read_labels(tmp_path / name)
