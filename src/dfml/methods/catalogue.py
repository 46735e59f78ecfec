"""The methods by name: dfml's own, and those that installed packages declare."""

from __future__ import annotations

from dfml.errors import UsageError
from dfml.methods.average import Average
from dfml.methods.base import Method
from dfml.methods.best_member import BestMember
from dfml.methods.bidf_mkd import BiDfMKD
from dfml.methods.dro import DRO
from dfml.methods.free import FREE
from dfml.methods.frozen_backbone import FrozenBackbone
from dfml.methods.ot_fusion import OTFusion
from dfml.methods.plugins import declared, import_method, is_path, load_declared
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.tgr import TGR
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(PURER, FREE, ZooStudent, BiDfMKD, TGR),
        *(RandomInit, RandomEmbedding, Average, OTFusion, DRO, BestMember, ZooEmbedding, FrozenBackbone),
    )
}


def find_method(name: str) -> type[Method]:
    """Find a method.

    Args:
        name: Name of one of dfml's own methods (they take precedence), of one that an installed package declares, or
            `MODULE:CLASS`; see `dfml.methods.plugins`.

    Raises:
        UsageError: If there is no such method, it cannot be imported or used, or it has the name of one of dfml's own.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_path(name) and name not in declared():
        raise UsageError(
            f"unknown method {name!r}; choose one of {', '.join(method_names())}, or MODULE:CLASS of a Python file"
        )
    kind = import_method(name) if is_path(name) else load_declared(name)
    if METHODS.get(kind.name, kind) is not kind:
        raise UsageError(f"{name} has the name {kind.name!r} of one of dfml's own methods; choose another name")
    return kind


def method_names() -> list[str]:
    """Names of dfml's own methods, followed by those that installed packages declare."""
    return [*METHODS, *(name for name in declared() if name not in METHODS)]
