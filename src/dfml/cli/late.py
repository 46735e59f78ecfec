"""Progress of work whose extent is known only once it reports, if it ever does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from dfml.training.progress import Progress, show_progress

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in total, figures worth showing)."""


@contextmanager
def late_progress(title: str) -> Iterator[Report]:
    """Shows nothing until the first report.

    Args:
        title: What is going on.
    """
    with ExitStack() as stack:
        shown: list[Progress] = []

        def report(done: int, total: int, figures: Mapping[str, float]) -> None:
            if not shown:
                shown.append(stack.enter_context(show_progress(title, total, start=done)))
            shown[0].update(done, figures)

        yield report
