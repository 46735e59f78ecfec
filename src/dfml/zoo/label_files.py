"""Class names in the forms in which people keep them: lists, numbered mappings, text files, `synset.txt`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dfml.errors import ConfigError
from dfml.files import open_regular_file

_MAX_BYTES, _MAX_LABELS = 64 * 2**20, 1_000_000
_SYNSET = re.compile(r"n\d{8}\s+(?=\S)")  # the number of a WordNet noun before its names
_NUMBERED = re.compile(r"(\d+)\s*[:,\t]\s*(?=\S)")


def labels_in(value: Any) -> tuple[str, ...]:
    """Class names in a value, in the order of the classifier's outputs.

    Args:
        value: A list of names; a mapping from number to name, `{0: "cat"}` or `{"0": "cat"}`; or from name to number,
            `{"cat": 0}`.

    Returns:
        The names; empty if the value is none of these, its numbers are not 0, 1, 2, ..., or names occur twice.
    """
    if isinstance(value, Mapping):
        by_number = _numbered(value) or _numbered({number: name for name, number in value.items() if _hashable(number)})
        names = [by_number[number] for number in range(len(by_number))] if by_number else []
    else:
        names = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []
    usable = all(isinstance(name, str) and name for name in names) and len(set(map(str, names))) == len(names)
    return tuple(names) if usable and len(names) <= _MAX_LABELS else ()


def _numbered(mapping: Mapping[Any, Any]) -> dict[int, Any]:
    """A mapping whose keys are the numbers 0, 1, 2, ...; empty if they are not."""
    try:
        numbered = {int(key): name for key, name in mapping.items() if not isinstance(key, bool | float)}
    except (ValueError, TypeError):
        return {}
    return numbered if len(numbered) == len(mapping) and set(numbered) == set(range(len(numbered))) else {}


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a file.

    Args:
        path: JSON (see `labels_in`; also one of these under a key such as `id2label` or `classes`), or text with one
            name per line, also after a number (`0: cat`) or a WordNet number (`synset.txt`).

    Raises:
        ConfigError: If it cannot be read, or holds no distinct names.
    """
    try:
        with open_regular_file(path) as file:
            text = file.read(_MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"labels: expected a text file at {path}, found none that can be read ({error})") from error
    try:
        labels = _from_json(json.loads(text))
    except (ValueError, RecursionError):
        labels = _from_lines(text)
    if not labels:
        raise ConfigError(
            f"labels: expected distinct class names in {path} (JSON list, JSON object from number to name, or one name "
            "per line), found none; correct the file"
        )
    return labels


def _from_json(value: Any) -> tuple[str, ...]:
    found = labels_in(value)
    if not found and isinstance(value, dict):
        found = next(
            (labels for each in value.values() if not isinstance(each, str) and (labels := labels_in(each))), ()
        )
    return found


def _from_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbers = [_NUMBERED.match(line) for line in lines]
    if lines and all(number and int(number[1]) == index for index, number in enumerate(numbers)):
        lines = [_NUMBERED.sub("", line, count=1) for line in lines]
    return labels_in([_SYNSET.sub("", line, count=1) for line in lines])
