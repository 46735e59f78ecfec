"""A zoo as one of black boxes: its members only predict, and count what they are queried with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dfml.zoo.members import CountedMember
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.zoo import Zoo


def black_boxes(zoo: Zoo, limit: int | None = None) -> Zoo:
    """The members of a zoo behind wrappers that hide their networks and count their queries.

    Args:
        zoo: The zoo; its members are loaded when they are first queried. Members that have a limit keep theirs.
        limit: Largest number of images that each other member may be queried with; None: no limit.

    Returns:
        A zoo with the same names and classes, whose members are `CountedMember`s.
    """
    members = {}
    for index in range(len(zoo)):
        known = zoo.has_network(index)
        member = None if known else zoo[index]
        members[index] = member if isinstance(member, CountedMember) else CountedMember(_Member(zoo, index), limit)
    names = [zoo.name(index) for index in range(len(zoo))]
    return Zoo([None] * len(zoo), zoo.classes, in_memory=members, class_identity=zoo.class_identity, names=names)


class _Member:
    """A member that is looked up in its zoo whenever it is used, so that the zoo may drop it in between."""

    def __init__(self, zoo: Zoo, index: int) -> None:
        self._zoo, self._index = zoo, index

    @property
    def labels(self) -> tuple[str, ...]:
        return (self._zoo.member_configs[self._index] or self._zoo[self._index]).labels

    @property
    def preprocessing(self) -> Preprocessing:
        return (self._zoo.member_configs[self._index] or self._zoo[self._index]).preprocessing

    @property
    def source(self) -> str:
        return self._zoo[self._index].source

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        return self._zoo[self._index].predict_proba(images)
