"""Matches outputs of different members that are the same class, by predictions for images instead of label names.

Every output is described by its profile: the mean probabilities that every member predicts for images recovered from
that output. The score of two outputs is high if their members recognise each other's images and if the profiles are
similar. Two outputs match if each has its highest score, among the outputs of the other's member, with the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.zoo.label_space import is_placeholder

THRESHOLD = 0.65
"""Smallest score of a match. Chosen on nine architectures trained on 20 classes; see docs/adding-members.md."""

Profiles = Sequence[Float[Tensor, "outputs all_outputs"]]
"""For every member one row per output: for images of that output, the mean class probabilities of all members side by
side, in the order of the members. A row of NaN is an output of which there are no images."""


@dataclass(frozen=True)
class OutputMatch:
    """Two outputs of different members that are probably the same class.

    Attributes:
        first: Index of a member, and index of one of its outputs.
        second: The same for a later member.
        score: In [0, 1]: geometric mean of the correlation of the profiles (0 if negative) and of the smaller of two
            probabilities, those that either member gives its output for images of the other output.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    score: float


def match_outputs(profiles: Profiles, threshold: float = THRESHOLD) -> list[OutputMatch]:
    """Pairs of outputs of different members that are each other's best match, by descending score.

    Args:
        profiles: See `Profiles`.
        threshold: Smallest score of a match, in [0, 1].
    """
    starts = [0, *torch.tensor([len(rows) for rows in profiles]).cumsum(0).tolist()]
    stacked = torch.cat(list(profiles))
    known = ~stacked.isnan().any(dim=1)
    deviations = stacked - stacked[known].mean(dim=0)
    directions = functional.normalize(deviations, dim=1)
    correlation = (directions @ directions.T).clamp(0.0, 1.0)
    # Entry (a, b): probability of output b for images of output a.
    score = (torch.minimum(stacked, stacked.T) * correlation).sqrt().nan_to_num(0.0)
    return sorted(_mutual(score, starts, threshold), key=lambda match: (-match.score, match.first, match.second))


def _mutual(score: Tensor, starts: Sequence[int], threshold: float) -> Iterator[OutputMatch]:
    for first in range(len(starts) - 1):
        for second in range(first + 1, len(starts) - 1):
            block = score[starts[first] : starts[first + 1], starts[second] : starts[second + 1]]
            columns, rows = block.argmax(dim=1).tolist(), block.argmax(dim=0).tolist()
            for row, column in enumerate(columns):
                value = float(block[row, column])
                if rows[column] == row and value >= threshold:
                    yield OutputMatch((first, row), (second, column), value)


def matched_identity(
    members: Sequence[tuple[str, tuple[str, ...]]], matches: Sequence[OutputMatch]
) -> dict[str, dict[str, str]]:
    """Class identity that joins matched outputs: member name -> label -> class name, for every output.

    At first every output is a class. Matches are taken from the best to the worst; each joins the classes of its two
    outputs, unless a member has outputs in both, or not more than half of the pairs of their outputs match (so that a
    chain of matches does not join classes that are only similar). A joined class gets the most common label of its
    outputs that is no placeholder. If there is none or the name is taken, or if an output has no match, the name is
    `MEMBER/LABEL` of the first output.

    Args:
        members: Name and labels of every member.
        matches: Matches of outputs, the best first.
    """
    group_of = {
        (member, output): [(member, output)]
        for member, (_, labels) in enumerate(members)
        for output in range(len(labels))
    }
    matched = {frozenset((match.first, match.second)) for match in matches}
    for match in matches:
        one, other = group_of[match.first], group_of[match.second]
        between = [frozenset((a, b)) in matched for a in one for b in other]
        if {member for member, _ in one} & {member for member, _ in other} or 2 * sum(between) <= len(between):
            continue
        joined = sorted(one + other)
        group_of |= dict.fromkeys(joined, joined)
    taken: set[str] = set()
    names: dict[tuple[int, int], str] = {}
    for output, group in group_of.items():
        if output not in names:
            name = _free_name(group, members, taken)
            taken.add(name)
            names |= dict.fromkeys(group, name)
    return {
        name: {label: names[member, output] for output, label in enumerate(labels)}
        for member, (name, labels) in enumerate(members)
    }


def _free_name(
    group: Sequence[tuple[int, int]], members: Sequence[tuple[str, tuple[str, ...]]], taken: set[str]
) -> str:
    """Name of a class that consists of `group`, distinct from those in `taken`."""
    member, output = group[0]
    own = f"{members[member][0]}/{members[member][1][output]}"
    if len(group) == 1:
        return own
    labels = Counter(members[member][1][output] for member, output in group)
    best = max(labels, key=lambda label: (not is_placeholder(label), labels[label], label))
    return own if best in taken or is_placeholder(best) else best


def describe_matches(
    members: Sequence[tuple[str, tuple[str, ...]]],
    matches: Sequence[OutputMatch],
    identity: Mapping[str, Mapping[str, str]],
) -> list[tuple[str, str, float]]:
    """Every match whose outputs `matched_identity` has joined: both outputs as `MEMBER/LABEL`, and the score."""

    def place(of: tuple[int, int]) -> tuple[str, str]:
        member, labels = members[of[0]]
        return member, labels[of[1]]

    found = [(place(match.first), place(match.second), match.score) for match in matches]
    return [
        ("/".join(one), "/".join(other), score)
        for one, other, score in found
        if identity[one[0]][one[1]] == identity[other[0]][other[1]]
    ]


def mean_profile(probabilities: Mapping[int, Tensor], labels: Tensor, confirmed: Tensor, outputs: int) -> Tensor:
    """Profile rows of one member: mean predictions of all members for the images of each of its outputs.

    Args:
        probabilities: Member index -> class probabilities of the images, of shape (images, outputs of that member).
        labels: Output of the member that each image was recovered as, of shape (images).
        confirmed: Whether the member itself classifies the image as that output; other images are left out. (images).
        outputs: Number of outputs of the member.

    Returns:
        (outputs of the member, outputs of all members by ascending index); NaN for an output without images.
    """
    side_by_side = torch.cat([probabilities[index].cpu() for index in sorted(probabilities)], dim=1)
    kept = functional.one_hot(labels.cpu(), outputs).float() * confirmed.cpu().float()[:, None]
    return kept.T @ side_by_side / kept.sum(dim=0)[:, None]  # 0 / 0 is NaN: no image
