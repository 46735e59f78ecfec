"""`CrossMemberAgreement`: whether members recognise the images that were recovered from other members."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.zoo.zoo import Zoo

# In a sound zoo, members recognise half to two thirds of the images recovered from others (docs/results).
_LEAST_IMAGES = 40  # before a warning
_CHANCE_FACTOR = 1.25  # times the chance level: a member that is no better has not learned its classes
_OTHER_CLASS_FACTOR = 0.25  # times the chance level: a class that is hardly ever recognised is another class


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
    """

    def __init__(self, zoo: Zoo) -> None:
        self._zoo = zoo
        self._classes = [torch.tensor(classes) for classes in zoo.classes.of_member]
        outputs = [len(classes) for classes in self._classes]
        self._columns = torch.split(torch.arange(sum(outputs)), outputs)
        self.queried = torch.zeros(sum(outputs), dtype=torch.int64)
        self.recognised = torch.zeros(sum(outputs), dtype=torch.int64)

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

    def warnings(self) -> list[str]:
        """One line for every member, or class of a member, whose predictions the other members contradict."""
        lines = []
        for member, columns in enumerate(self._columns):
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
        return {"queried": self.queried, "recognised": self.recognised}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.queried, self.recognised = tensors["queried"].cpu(), tensors["recognised"].cpu()
