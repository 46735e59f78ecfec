"""`CrossMemberAgreement`: whether members recognise the images that were recovered from other members."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.zoo.zoo import Zoo

# In a zoo without defects, members recognise half to two thirds of the images recovered from others (docs/results).
_LEAST_IMAGES = 40  # a warning needs so many
_CHANCE_FACTOR = 1.25  # times the chance level: a member that is no better has not learned its classes
_OTHER_CLASS_FACTOR = 0.25  # times the chance level: a name that is recognised even less often means another class
_SOUND_FACTOR = 2.0  # times the chance level: images that other members recognise so often show their classes
_LEAST_SOUND_IMAGES, _LEAST_SOUND_MEMBERS = 100, 2  # a contradiction needs so many


class CrossMemberAgreement:
    """Counts how many images of its classes, recovered from other members, each output of each member recognises.

    There are no labelled images to test a member with; but images of a class that several members have in common are
    recovered from one of them and can be classified by the others. The counts reveal a member at chance level, and a
    class name that means different things.

    Args:
        zoo: The members and their label space.

    Attributes:
        queried: For every output, the number of images of its class that its member classified; the outputs of all
            members side by side.
        recognised: For every output, how many of these its member classified as that output.
        pairs: Number of images recovered from a member (row) that another member (column) with their class classified.
        agreed: How many of `pairs` the other member classified as their class.
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

    def draw_members_sharing_classes(self, inverted_from: int, count: int, generator: torch.Generator) -> list[int]:
        """Draw up to `count` other members at random that share a class with a member, to classify its images.

        Args:
            inverted_from: Index of the member.
            count: Largest number of members.
            generator: Random generator on the CPU.

        Returns:
            Indices of different members, in random order.
        """
        own = set(self._classes[inverted_from].tolist())
        order = torch.randperm(len(self._classes), generator=generator).tolist()
        sharing = (index for index in order if index != inverted_from and own & set(self._classes[index].tolist()))
        return list(islice(sharing, count))

    def contradicted(self) -> dict[int, str]:
        """Members that are at chance level on images on which the other members agree with each other.

        Such images are those recovered from a member whose images the remaining members recognise at least twice as
        often as by chance: images that show nothing, or come from a member with wrong labels, contradict no other. A
        member is contradicted if it classified at least 100 of them, from at least two members, and was right at most
        1.25 times as often as by chance. Not contradicted are two members that only contradict each other, members that
        share no class with others, and inaccurate members that are better than chance.

        Returns:
            Index of the member -> the reason, for a message.
        """
        # Element (row, member): of the images of `row`, what all members but `member` were asked about and agreed with.
        expected = self.pairs * self._chance
        by_others = self.agreed.sum(dim=1, keepdim=True) - self.agreed
        chance = expected.sum(dim=1, keepdim=True) - expected
        sound = (by_others > 0) & (by_others >= _SOUND_FACTOR * chance)
        sound.fill_diagonal_(False)
        queried, correct = (self.pairs * sound).sum(dim=0), (self.agreed * sound).sum(dim=0)
        members = ((self.pairs > 0) & sound).sum(dim=0)
        enough = (queried >= _LEAST_SOUND_IMAGES) & (members >= _LEAST_SOUND_MEMBERS)
        at_chance = enough & (correct <= _CHANCE_FACTOR * self._chance * queried)
        found = {}
        for member in at_chance.nonzero().flatten().tolist():
            found[member] = (
                f"it recognises {int(correct[member])} of {int(queried[member])} images of its classes that were "
                f"recovered from {int(members[member])} other members and that further members recognise, which is "
                "chance level: its labels may be in another order, its normalisation another one, or it is untrained"
            )
        return found

    def warnings(self) -> list[str]:
        """One line for every member, or class of a member, whose predictions the other members contradict.

        Members in `contradicted` are left out, because a message says why they are excluded.
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
