"""How much of its class a recovered image shows, or whether it is only noise that one member accepts.

A classifier recognises almost all images that were inverted from it, so its own agreement says little. What counts is
whether another member with the class in its label set, which had no part in the inversion, recognises them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml import seeds
from dfml.inversion.term_values import batch_norm_distance
from dfml.zoo.members import Differentiable, teacher_logits
from dfml.zoo.statistics import LayerStatistics
from dfml.zoo.zoo import Zoo

MOST_OTHERS = 64
"""Largest number of other members that are asked about the images of one: in a zoo of 1,000, a class may have hundreds,
and asking all of them about all images would take quadratic time."""


@dataclass(frozen=True)
class Fidelity:
    """Figures of the images recovered from one member.

    Attributes:
        agreement: Fraction of the images that the member itself classifies as their label.
        batch_norm_distance: Distance between the images' batch-norm statistics and the running ones: L2 norms, summed
            over layers (`dfml.inversion.term_values.batch_norm_distance`), averaged over batches of images that were
            recovered together. Smaller batches have larger distances. 0 without batch-norm layers.
        noise_batch_norm_distance: The same distance for uniform noise in batches of the same sizes, for comparison.
        other_agreement: Over all pairs of an image and another member that has the image's class: the fraction in which
            that member predicts the class. None if there is no such pair. At most `MOST_OTHERS` members are asked, a
            random choice.
        chance: Mean over these pairs of 1 / (number of classes of the other member); without pairs, 1 / (number of
            classes of the member itself).
        warning: What is wrong, if the images are only noise; otherwise None.
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
    """Measures the fidelity of one member's images as they are recovered, in one batch or in several.

    Distances of batch-norm statistics are averaged over batches, weighted by the number of images.

    Args:
        zoo: The zoo with the member.
        member: Index of the member.
    """

    def __init__(self, zoo: Zoo, member: int) -> None:
        self._zoo, self._member = zoo, member
        self._images = self._agreed = self._pairs = self._others_agreed = 0
        self._distance = self._noise_distance = self._expected = 0.0

    @torch.no_grad()
    def add(self, images: Float[Tensor, "images 3 _height _width"], labels: Int64[Tensor, " images"]) -> None:
        """Measure a further batch.

        Args:
            images: Images in [0, 1].
            labels: For every image the output of the member that it was recovered as.
        """
        member, count = self._zoo[self._member], len(images)
        statistics: list[LayerStatistics] = []
        if isinstance(member, Differentiable):
            logits, statistics = member.logits_and_statistics(member.preprocessing.resize(images))
        else:
            logits = teacher_logits(member, images)
        self._images += count
        self._agreed += int((logits.argmax(dim=1) == labels).sum())
        if isinstance(member, Differentiable) and statistics:
            noise = torch.rand(images.shape, generator=seeds.generator(0, "noise")).to(images.device)
            _, noise_statistics = member.logits_and_statistics(member.preprocessing.resize(noise))
            self._distance += count * batch_norm_distance(statistics).item()
            self._noise_distance += count * batch_norm_distance(noise_statistics).item()
        self._query_others(images, labels)

    def _query_others(self, images: Tensor, labels: Tensor) -> None:
        """Count pairs of an image and another member with its class, those that agree, and those expected by chance."""
        classes_of = self._zoo.classes.of_member
        wanted = torch.tensor(classes_of[self._member], device=labels.device)[labels]
        for index in self._others():
            classes = classes_of[index]
            known = torch.isin(wanted, torch.tensor(classes, device=labels.device))
            if not bool(known.any()):
                continue
            predicted = teacher_logits(self._zoo[index], images[known]).argmax(dim=1)
            correct = torch.tensor(classes, device=labels.device)[predicted] == wanted[known]
            self._others_agreed += int(correct.sum())
            self._expected += len(correct) / len(classes)
            self._pairs += len(correct)

    def _others(self) -> list[int]:
        """Other members with a class of the member's, in order; at most `MOST_OTHERS` of them, drawn at random."""
        classes_of = self._zoo.classes.of_member
        own = set(classes_of[self._member])
        sharing = [
            index for index, classes in enumerate(classes_of) if index != self._member and not own.isdisjoint(classes)
        ]
        if len(sharing) > MOST_OTHERS:
            order = torch.randperm(len(sharing), generator=seeds.generator(0, "others", self._member))
            sharing = [sharing[position] for position in sorted(order[:MOST_OTHERS].tolist())]
        return sharing

    def read(self) -> Fidelity:
        """Return the figures of all images added so far.

        Raises:
            ValueError: If no image was added.
        """
        if not self._images:
            raise ValueError("expected images to measure, found none; call `add` first")
        agreement = self._agreed / self._images
        distance, noise_distance = self._distance / self._images, self._noise_distance / self._images
        other = self._others_agreed / self._pairs if self._pairs else None
        chance = self._expected / self._pairs if self._pairs else 1.0 / len(self._zoo.classes.of_member[self._member])
        warning = _warning(agreement, distance, noise_distance, other, chance)
        return Fidelity(agreement, distance, noise_distance, other, chance, warning)


def measure(
    zoo: Zoo, member: int, images: Float[Tensor, "images 3 height width"], labels: Int64[Tensor, "images"]
) -> Fidelity:
    """Measure all images of a member at once; see `FidelityMeter`."""
    meter = FidelityMeter(zoo, member)
    meter.add(images, labels)
    return meter.read()


def _warning(
    agreement: float, distance: float, noise_distance: float, other: float | None, chance: float
) -> str | None:
    """A warning where images are noise; the limits are coarse and do not tell good images from better ones."""
    if agreement < 0.5:
        return f"the member itself recognises only {agreement:.0%} of its images: more steps or a larger label weight"
    if other is not None and other < chance + 0.125 * (1.0 - chance):
        return (
            f"other members recognise {other:.0%}, chance is {chance:.0%}: noise that only this member accepts "
            "(give batch_norm and total_variation more weight), or a member with wrong labels or normalisation"
        )
    if other is None and noise_distance > 0.0 and distance > 0.5 * noise_distance:
        return (
            f"the batch-norm statistics are nearly as far off ({distance:.1f}) as those of noise "
            f"({noise_distance:.1f}): give batch_norm more weight"
        )
    return None
