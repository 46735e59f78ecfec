"""One method per file: a zoo and a config in, a learner out."""

from __future__ import annotations

from dfml.errors import UsageError
from dfml.methods.average import Average
from dfml.methods.base import Method
from dfml.methods.best_member import BestMember
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (PURER, FREE, ZooStudent, RandomInit, RandomEmbedding, Average, BestMember, ZooEmbedding)
}


def find_method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
