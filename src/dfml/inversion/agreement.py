"""`CrossMemberAgreement`: whether members recognise the images that were recovered from other members."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.zoo.zoo import Zoo

# In a sound zoo, members recognise half to two thirds of the images recovered from others (docs/results).
_LEAST_IMAGES = 40  # before a warning
_CHANCE_FACTOR = 1.25  # times the chance level: a member that is no better has not learned its classes
_OTHER_CLASS_FACTOR = 0.25  # times the chance level: a class that is hardly ever recognised is another class
_SOUND_FACTOR = 2.0  # times the chance level: images that other members recognise so often show their classes
_LEAST_SOUND_IMAGES, _LEAST_SOUND_MEMBERS = 100, 2  # before a member is contradicted


class CrossMemberAgreement:
    """Counts, for every output of every member, the images of its class from other members and how many it recognises.

    There are no labelled images, but a class that several members have in common is recovered from one and classified
    by the others. A member at chance level, and a class name with different meanings, show in the counts.

    Args:
        zoo: The members and their label space.

    Attributes:
        queried: Images of an output's class that the member was queried with, one count per output, members side by
            side.
        recognised: How many of these it classified as that output.
        pairs: For every member (row) the number of its images that every other member (column) was queried with.
        agreed: How many of these the other member classified as their class.
    """

    def __init__(self, zoo: Zoo) -> None:
        self._zoo = zoo
        self._classes = [torch.tensor(classes) for classes in zoo.classes.of_member]
        outputs = [len(classes) for classes in self._classes]
        self._columns = torch.split(torch.arange(sum(outputs)), outputs)
        self.queried = torch.zeros(sum(outputs), dtype=torch.int64)
        self.recognised = torch.zeros(sum(outputs), dtype=torch.int64)
        self.pairs = torch.zeros(len(outputs), len(outputs), dtype=torch.int64)
        self.agreed = torch.zeros(len(outputs), len(outputs), dtype=torch.int64)
        self._chance = 1.0 / torch.tensor(outputs, dtype=torch.float64)

    def add(
        self,
        inverted_from: int,
        labels: Int64[Tensor, "images"],
        scores: Mapping[int, Float[Tensor, "images _outputs"]],
    ) -> None:
        """Count the predictions for images that were recovered from one member.

        Args:
            inverted_from: Index of the member that the images were recovered from.
            labels: For every image the output of that member that it was recovered as.
            scores: Member index -> logits or log-probabilities of the images; members with NaN are not counted. If the
                inverted member itself is among them, only images that it classifies as their label count: the others
                show no class, and say nothing about the members that do not recognise them either.
        """
        own = scores.get(inverted_from)
        confirmed = slice(None) if own is None else own.argmax(dim=1) == labels
        classes = self._classes[inverted_from][labels[confirmed].cpu()]
        for member, member_scores in scores.items():
            predictions = member_scores[confirmed]
            if member == inverted_from or bool(predictions.isnan().any()):
                continue
            same_class = classes[:, None] == self._classes[member]
            shared, output = same_class.any(dim=1), same_class.int().argmax(dim=1)
            correct = predictions.argmax(dim=1).cpu() == output
            columns = self._columns[member]
            self.queried[columns] += torch.bincount(output[shared], minlength=len(columns))
            self.recognised[columns] += torch.bincount(output[shared & correct], minlength=len(columns))
            self.pairs[inverted_from, member] += int(shared.sum())
            self.agreed[inverted_from, member] += int((shared & correct).sum())

    def judges(self, inverted_from: int, count: int, generator: torch.Generator) -> list[int]:
        """Draw up to `count` other members at random that have a class in common with a member.

        Args:
            inverted_from: Index of the member.
            count: Largest number of members.
            generator: Random generator on the CPU.
        """
        own = set(self._classes[inverted_from].tolist())
        order = torch.randperm(len(self._classes), generator=generator).tolist()
        sharing = (index for index in order if index != inverted_from and own & set(self._classes[index].tolist()))
        return list(islice(sharing, count))

    def contradicted(self) -> dict[int, str]:
        """Members that are at chance where the other members agree with each other.

        Only images of members whose images the remaining members recognise at least twice as often as by chance count:
        images that show nothing, or are of a member with wrong labels, contradict nobody. A member is contradicted if
        it was queried with at least 100 such images of at least two members, and its predictions are right at most 1.25
        times as often as by chance. So two members that contradict each other are both kept, and so are members that
        share no class with others, and inaccurate members that are better than chance.

        Returns:
            Index of the member -> what contradicts it.
        """
        found = {}
        expected = self.pairs * self._chance
        for member in range(len(self._chance)):
            others = torch.arange(len(self._chance)) != member
            by_others, chance = self.agreed[:, others].sum(dim=1), expected[:, others].sum(dim=1)
            sound = others & (by_others > 0) & (by_others >= _SOUND_FACTOR * chance)
            queried, correct = int(self.pairs[sound, member].sum()), int(self.agreed[sound, member].sum())
            members = int((self.pairs[sound, member] > 0).sum())
            if queried < _LEAST_SOUND_IMAGES or members < _LEAST_SOUND_MEMBERS:
                continue
            if correct <= _CHANCE_FACTOR * float(self._chance[member]) * queried:
                found[member] = (
                    f"it recognises {correct} of {queried} images of its classes that were recovered from {members} "
                    "other members and that further members recognise, which is chance level: its labels may be in "
                    "another order, its normalisation another one, or it is untrained"
                )
        return found

    def warnings(self) -> list[str]:
        """One line for every member, or class of a member, whose predictions the other members contradict.

        Members in `contradicted` are left out: whoever excludes them says why.
        """
        lines, excluded = [], self.contradicted()
        for member, columns in enumerate(self._columns):
            if member in excluded:
                continue
            name, labels = self._zoo.name(member), self._zoo[member].labels
            queried, recognised = self.queried[columns], self.recognised[columns]
            total, correct = int(queried.sum()), int(recognised.sum())
            chance = 1.0 / len(columns)
            if total >= _LEAST_IMAGES and correct <= _CHANCE_FACTOR * chance * total:
                lines.append(
                    f"{name} recognises {correct} of {total} images of its classes that were recovered from other "
                    "members, which is chance level: it may be untrained, or its labels in another order"
                )
                continue
            lines += [
                f"{name} recognises {int(recognised[output])} of {int(queried[output])} images of {labels[output]!r} "
                "that were recovered from other members: the name may mean another class there (see --class-identity)"
                for output in range(len(columns))
                if int(queried[output]) >= _LEAST_IMAGES
                and int(recognised[output]) <= _OTHER_CLASS_FACTOR * chance * int(queried[output])
            ]
        return lines

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return {
            "queried": self.queried,
            "recognised": self.recognised,
            "pairs": self.pairs,
            "agreed": self.agreed,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.queried, self.recognised = tensors["queried"].cpu(), tensors["recognised"].cpu()
        self.pairs, self.agreed = tensors["pairs"].cpu(), tensors["agreed"].cpu()
