"""`identity_by_behaviour`: decides which outputs of different members are the same class, without their labels.

Images are recovered from every member and classified by all. This serves files without labels, or with labels in other
languages. A member that cannot be inverted shares no class with others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfml.errors import ZooError
from dfml.inversion.invert import inversion_settings, invert, not_invertible
from dfml.inversion.inverted import InvertedMember
from dfml.inversion.registry import InversionConfig
from dfml.zoo.members import teacher_logits
from dfml.zoo.output_matching import (
    THRESHOLD,
    OutputMatch,
    describe_matches,
    match_outputs,
    matched_identity,
    mean_profile,
)
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class BehaviourIdentity:
    """Classes of a zoo by behaviour.

    Attributes:
        mapping: Member name -> label -> class name, for `Zoo.open(..., class_identity=...)`.
        pairs: Matches of two outputs that became one class: `MEMBER/LABEL`, `MEMBER/LABEL` and the score of the match
            in [0, 1], the best first.
        left_out: Name of a member that cannot be inverted -> why.
    """

    mapping: dict[str, dict[str, str]]
    pairs: tuple[tuple[str, str, float], ...]
    left_out: dict[str, str]


def identity_by_behaviour(
    zoo: Zoo,
    *,
    per_class: int = 8,
    config: InversionConfig | None = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
    on_member: Callable[[int, int], None] | None = None,
) -> BehaviourIdentity:
    """Recover images from every member, let all members classify them, and match outputs by what they predict.

    Args:
        zoo: The members; inverted on the zoo's device.
        per_class: Number of images recovered for each output.
        config: Settings of the inversion; None: the defaults of the engine `ei`.
        threshold: Smallest score of a match, in [0, 1]; a larger one gives fewer, more reliable matches.
        seed: Seed of all draws.
        on_member: Called after every member with (members done, members in total).

    Raises:
        ZooError: If fewer than two members can be inverted.
    """
    config = config or inversion_settings("ei")
    left_out = not_invertible(zoo, config.engine)
    chosen = [index for index in range(len(zoo)) if zoo.name(index) not in left_out]
    if len(chosen) < 2:
        raise ZooError(
            f"class identity by behaviour: expected at least two members that can be inverted, found {len(chosen)}; "
            "use --class-identity names or a file"
        )
    profiles = []
    for done, index in enumerate(chosen):
        (inverted,) = invert(zoo, members=[index], per_class=per_class, config=config, seed=seed)
        profiles.append(_profile(zoo, index, chosen, inverted))
        if on_member:
            on_member(done + 1, len(chosen))
    members = [(zoo.name(index), zoo[index].labels) for index in range(len(zoo))]
    matches = [
        OutputMatch((chosen[match.first[0]], match.first[1]), (chosen[match.second[0]], match.second[1]), match.score)
        for match in match_outputs(profiles, threshold)
    ]
    mapping = matched_identity(members, matches)
    return BehaviourIdentity(mapping, tuple(describe_matches(members, matches, mapping)), left_out)


@torch.no_grad()
def _profile(zoo: Zoo, index: int, chosen: list[int], inverted: InvertedMember) -> Tensor:
    """Mean probabilities of all chosen members for the images of each output of one; see `Profiles`."""
    images = torch.cat(list(inverted.images)).to(zoo.device)
    labels = torch.arange(len(inverted.images)).repeat_interleave(
        torch.tensor([len(of_output) for of_output in inverted.images])
    )
    logits = {position: teacher_logits(zoo[member], images) for position, member in enumerate(chosen)}
    confirmed = logits[chosen.index(index)].argmax(dim=1).cpu() == labels
    probabilities = {position: values.softmax(dim=1) for position, values in logits.items()}
    return mean_profile(probabilities, labels, confirmed, len(zoo[index].labels))
