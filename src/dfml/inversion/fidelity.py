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
from dfml.images import resize_and_crop
from dfml.inversion.loss import batch_norm_distance
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo


@dataclass(frozen=True)
class Fidelity:
    """Of images recovered from one member.

    Attributes:
        agreement: Share of images that the member itself assigns to their label.
        batch_norm_distance: Of the images, see `dfml.inversion.loss.batch_norm_distance`; a mean over what
            was recovered together, and the larger, the fewer images that was; 0 without batch-norm.
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


class FidelityMeter:
    """Judges images of one member as they are recovered: all at once, or some classes after the others.

    Distances of batch-norm statistics are means over the parts, weighted by their images.

    Args:
        zoo: Where the member is from.
        member: Its index.
    """

    def __init__(self, zoo: Zoo, member: int) -> None:
        self._zoo, self._member = zoo, member
        self._images = self._agreed = self._asked = self._others_agreed = 0
        self._distance = self._noise_distance = self._expected = 0.0

    @torch.no_grad()
    def add(self, images: Float[Tensor, "images 3 _height _width"], labels: Int64[Tensor, " images"]) -> None:
        """Judge some more.

        Args:
            images: In [0, 1].
            labels: Outputs of the member that the images were recovered for.
        """
        classifier, count = self._zoo.classifier(self._member), len(images)
        logits, statistics = classifier.logits_and_statistics(resize_and_crop(images, classifier.preprocessing.size))
        noise = torch.rand(images.shape, generator=seeds.generator(0, "noise")).to(images.device)
        _, of_noise = classifier.logits_and_statistics(resize_and_crop(noise, classifier.preprocessing.size))
        self._images += count
        self._agreed += int((logits.argmax(dim=1) == labels).sum())
        if statistics:
            self._distance += count * batch_norm_distance(statistics).item()
            self._noise_distance += count * batch_norm_distance(of_noise).item()
        self._ask_others(images, labels)

    def _ask_others(self, images: Tensor, labels: Tensor) -> None:
        """Count (image, other member that knows its class) pairs, those that agree, and those that guessing would."""
        classes_of = self._zoo.classes.of_member
        wanted = torch.tensor(classes_of[self._member], device=labels.device)[labels]
        for index, classes in enumerate(classes_of):
            known = torch.isin(wanted, torch.tensor(classes, device=labels.device))
            if index == self._member or not bool(known.any()):
                continue
            answer = teacher_logits(self._zoo[index], images[known]).argmax(dim=1)
            right = torch.tensor(classes, device=labels.device)[answer] == wanted[known]
            self._others_agreed += int(right.sum())
            self._expected += len(right) / len(classes)
            self._asked += len(right)

    def read(self) -> Fidelity:
        """Of all that was added.

        Raises:
            ValueError: If nothing was.
        """
        if not self._images:
            raise ValueError("expected images to judge, found none; call `add` first")
        agreement = self._agreed / self._images
        distance, yardstick = self._distance / self._images, self._noise_distance / self._images
        other = self._others_agreed / self._asked if self._asked else None
        chance = self._expected / self._asked if self._asked else 1.0 / len(self._zoo.classes.of_member[self._member])
        warning = _warning(agreement, distance, yardstick, other, chance)
        return Fidelity(agreement, distance, yardstick, other, chance, warning)


def measure(
    zoo: Zoo, member: int, images: Float[Tensor, "images 3 height width"], labels: Int64[Tensor, "images"]
) -> Fidelity:
    """Judge all images of a member at once; see `FidelityMeter`."""
    meter = FidelityMeter(zoo, member)
    meter.add(images, labels)
    return meter.read()


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
