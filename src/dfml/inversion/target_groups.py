"""Which targets of a run are evaluated in one call, as a stack of members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dfml.inversion.engine import EmaStatistics, Target
from dfml.zoo.stack import stack_key


def group_targets(
    targets: Sequence[Target], previous: Sequence[EmaStatistics], chunks: Sequence[int]
) -> dict[object, list[int]]:
    """Group targets that can be evaluated in one call, as many in a group as the memory allows.

    They have the same architecture and number of images; all or none have `Target.rows`, and previous statistics (which
    a member lacks in its first round). A target whose images do not fit one backward pass, or whose steps are limited,
    is in no group.

    Args:
        targets: All targets.
        previous: For every target the EMA statistics of earlier rounds; empty without any.
        chunks: For every target the number of images that may be in one backward pass.

    Returns:
        Key of a group -> indices of its targets.
    """
    groups: dict[object, list[int]] = {}
    places: Counter[object] = Counter()
    for index, (target, seen, chunk) in enumerate(zip(targets, previous, chunks, strict=True)):
        at_once = chunk // len(target.labels)  # members in one call
        if at_once and target.steps is None:
            key = (stack_key(target.network), len(target.labels), target.rows is None, len(seen))
            groups.setdefault((key, places[key] // at_once), []).append(index)
            places[key] += 1
    return groups
