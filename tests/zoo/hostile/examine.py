"""Examines zoos of hostile cases, in a process of its own: folders are read from standard input, one per line.

One line of JSON per zoo. Whoever started this process ends it if a line does not come.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfml.errors import DfmlError
from dfml.zoo import trial
from dfml.zoo.adding import Stated, assess
from dfml.zoo.inspection import ZooReport, inspect_zoo
from dfml.zoo.manifest import Manifest
from dfml.zoo.zoo import Zoo

TRIAL_SECONDS = 10


def attempt(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """Result, and the message of the error if there was one; other errors than dfml's own are crashes."""
    try:
        return work(), None
    except DfmlError as error:
        return None, str(error)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"CRASH {type(error).__name__} at {place.filename}:{place.lineno}: {error}"[:2000]


def examine(zoo: Path) -> dict[str, Any]:
    """All that dfml says of a zoo: by inspection, by adding its files, and by opening it."""
    report: ZooReport | None
    report, failure = attempt(lambda: inspect_zoo(zoo))
    members = report.members if report else ()
    added = {}
    for each in members:
        if each.can_be_added:
            file = zoo / each.name
            _, added[each.name] = attempt(lambda file=file: assess(file, zoo, Manifest(), Stated()))  # type: ignore[misc]
    _, opened = attempt(lambda: Zoo.open(zoo).vet())
    return {
        "failure": failure,
        "rows": {each.name: each.problem for each in members},
        "warnings": {each.name: list(each.warnings) for each in members},
        "added": added,
        "opened": opened,
    }


def main(folders: Any) -> None:
    """Examine the zoos in the order in which they are given."""
    trial.TIME = TRIAL_SECONDS
    for folder in folders:
        print(json.dumps(examine(Path(folder.rstrip("\n")))), flush=True)


if __name__ == "__main__":
    main(sys.stdin)
