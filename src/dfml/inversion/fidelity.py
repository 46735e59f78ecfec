"""How much of a class is in its recovered images, or whether they are only noise that pleases one member.

A classifier accepts its own inverted images almost always, so its agreement says little. What counts is whether another
member that knows the class, and had no part in the inversion, recognises it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml import seeds
from dfml.images import fit_images
from dfml.inversion.objectives import batch_norm_distance
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class Fidelity:
    """Of images recovered from one member.

    Attributes:
        agreement: Share of images that the member itself assigns to their label.
        batch_norm_distance: Of the images, see `dfml.inversion.objectives.batch_norm_distance`; 0 without batch-norm.
        noise_batch_norm_distance: The same for uniform noise, as a yardstick.
        other_agreement: Share that other members assign to the same class, over all members that know the class; None
            if no other member does.
        chance: What guessing would give for `other_agreement`.
        warning: What is wrong, if the images are only noise.
    """

    agreement: float
    batch_norm_distance: float
    noise_batch_norm_distance: float
    other_agreement: float | None
    chance: float
    warning: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


@torch.no_grad()
def measure(
    zoo: Zoo, member: int, images: Float[Tensor, "images 3 height width"], labels: Int64[Tensor, "images"]
) -> Fidelity:
    """Judge recovered images.

    Args:
        zoo: Where the member is from.
        member: Its index.
        images: In [0, 1].
        labels: Outputs of the member that the images were recovered for.
    """
    classifier = zoo[member]
    logits, statistics = classifier.logits_and_statistics(fit_images(images, classifier.preprocessing.size))
    agreement = (logits.argmax(dim=1) == labels).float().mean().item()
    distance = batch_norm_distance(statistics).item() if statistics else 0.0
    noise = torch.rand(images.shape, generator=seeds.generator(0, "noise")).to(images.device)
    _, of_noise = classifier.logits_and_statistics(fit_images(noise, classifier.preprocessing.size))
    yardstick = batch_norm_distance(of_noise).item() if of_noise else 0.0
    other, chance = _other_agreement(zoo, member, images, labels)
    warning = _warning(agreement, distance, yardstick, other, chance)
    return Fidelity(agreement, distance, yardstick, other, chance, warning)


def _other_agreement(zoo: Zoo, member: int, images: Tensor, labels: Tensor) -> tuple[float | None, float]:
    """Share of (image, other member that knows its class) pairs that agree, and the share that guessing would give."""
    wanted = torch.tensor(zoo.classes.of_member[member], device=labels.device)[labels]
    agreed = expected = 0.0
    asked = 0
    for index, classes in enumerate(zoo.classes.of_member):
        known = torch.isin(wanted, torch.tensor(classes, device=labels.device))
        if index == member or not bool(known.any()):
            continue
        other = zoo[index]
        answer = other.logits(fit_images(images[known], other.preprocessing.size)).argmax(dim=1)
        agreed += (torch.tensor(classes, device=labels.device)[answer] == wanted[known]).sum().item()
        expected += int(known.sum()) / len(classes)
        asked += int(known.sum())
    return (agreed / asked, expected / asked) if asked else (None, 1.0 / len(zoo[member].labels))


def _warning(agreement: float, distance: float, yardstick: float, other: float | None, chance: float) -> str | None:
    """The limits are coarse on purpose: they part noise from images, not good images from better ones."""
    if agreement < 0.5:
        return f"the member itself recognises only {agreement:.0%} of its images: more steps or a larger label weight"
    if other is not None and other < chance + 0.125 * (1.0 - chance):
        return (
            f"other members recognise {other:.0%}, guessing gives {chance:.0%}: noise that pleases this member only; "
            "give batch_norm and total_variation more weight"
        )
    if other is None and yardstick > 0.0 and distance > 0.5 * yardstick:
        return (
            f"the batch-norm statistics are nearly as far off ({distance:.1f}) as those of noise ({yardstick:.1f}): "
            "give batch_norm more weight"
        )
    return None
