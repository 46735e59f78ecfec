"""`CrossMemberAgreement`: do members recognise what others recall of the classes that they share?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.zoo.zoo import Zoo

# Of images that another member recalls, half to two thirds are recognised in a sound zoo (docs/results/zoo-student.md).
_ENOUGH = 40  # images, before a judgement
_GUESSING = 1.25  # times the rate of guessing: a member that is no better knows nothing
_ANOTHER = 0.25  # times the rate of guessing: a class that is hardly ever recognised is another one


class CrossMemberAgreement:
    """Counts, for every output of every member, images that others recalled of its class, and those it recognised.

    Nobody has labels, but a class that several members know is recalled by one and put to the others. A member at
    chance level, and a name that means different things to different members, give themselves away.

    Args:
        zoo: With its classes.
    """

    def __init__(self, zoo: Zoo) -> None:
        self._zoo = zoo
        self._classes = [torch.tensor(classes) for classes in zoo.classes.of_member]
        outputs = [len(classes) for classes in self._classes]
        self._columns = torch.split(torch.arange(sum(outputs)), outputs)
        self.asked = torch.zeros(sum(outputs), dtype=torch.int64)
        self.recognised = torch.zeros(sum(outputs), dtype=torch.int64)

    def add(
        self,
        inverted_from: int,
        labels: Int64[Tensor, "images"],
        answers: Mapping[int, Float[Tensor, "images _outputs"]],
    ) -> None:
        """Count what was answered about images that one member recalled.

        Args:
            inverted_from: The member.
            labels: Which of its outputs each image is of.
            answers: Scores of members' outputs, by member. Those of members that answer nothing are not counted. Where
                its own are among them, only images that it recognises itself count: others are no image of anything,
                and say nothing of those that do not recognise them either.
        """
        own = answers.get(inverted_from)
        meant = slice(None) if own is None else own.argmax(dim=1) == labels
        classes = self._classes[inverted_from][labels[meant].cpu()]
        for member, every in answers.items():
            scores = every[meant]
            if member == inverted_from or bool(scores.isnan().any()):
                continue
            known = classes[:, None] == self._classes[member]
            shared, output = known.any(dim=1), known.int().argmax(dim=1)
            right = scores.argmax(dim=1).cpu() == output
            columns = self._columns[member]
            self.asked[columns] += torch.bincount(output[shared], minlength=len(columns))
            self.recognised[columns] += torch.bincount(output[shared & right], minlength=len(columns))

    def warnings(self) -> list[str]:
        """One line for every member, or class of a member, that the others do not confirm."""
        found = []
        for member, columns in enumerate(self._columns):
            name, labels = self._zoo.name(member), self._zoo[member].labels
            asked, recognised = self.asked[columns], self.recognised[columns]
            total, right = int(asked.sum()), int(recognised.sum())
            guessing = 1.0 / len(columns)
            if total >= _ENOUGH and right <= _GUESSING * guessing * total:
                found.append(
                    f"{name} recognises {right} of {total} images that other members recall of its classes, which is "
                    "guessing: it may be at chance level, or its labels in another order"
                )
                continue
            found += [
                f"{name} recognises {int(recognised[output])} of {int(asked[output])} images that other members recall "
                f"of {labels[output]!r}: the name may mean something else there (see --class-identity)"
                for output in range(len(columns))
                if int(asked[output]) >= _ENOUGH and int(recognised[output]) <= _ANOTHER * guessing * int(asked[output])
            ]
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return {"asked": self.asked, "recognised": self.recognised}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.asked, self.recognised = tensors["asked"].cpu(), tensors["recognised"].cpu()
