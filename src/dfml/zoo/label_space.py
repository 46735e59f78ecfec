"""The label space of a zoo: which outputs of different members are the same class.

Members come from different sources, so only the name of a label identifies its class. Placeholders (`0`, `class_3`,
`LABEL_0`) do not: such an output is a class of its own, `MEMBER/LABEL`, unless a mapping names its class.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dfml.errors import ConfigError

_PLACEHOLDER = re.compile(r"(class|label|cls|category)?[\s_-]*\d+", re.IGNORECASE)


ClassIdentity = str | Mapping[str, Mapping[str, str]]
"""Rule or mapping that decides which outputs of different members are the same class; see `build_label_space`."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a zoo.

    Attributes:
        names: One distinct name per class: a label, a class name of the mapping, or `MEMBER/LABEL`.
        of_member: For every member the class index of each of its outputs.
    """

    names: tuple[str, ...]
    of_member: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def digest(self) -> str:
        """Eight hex digits (CRC-32) that change with every name and with the class of any output."""
        return f"{zlib.crc32(repr((self.names, self.of_member)).encode()):08x}"

    def merges(self) -> dict[str, list[int]]:
        """Name of every class that several members share -> indices of these members."""
        sharing: dict[int, list[int]] = {}
        for member, classes in enumerate(self.of_member):
            for index in classes:
                sharing.setdefault(index, []).append(member)
        return {self.names[index]: members for index, members in sorted(sharing.items()) if len(members) > 1}


def build_label_space(members: Sequence[tuple[str, tuple[str, ...]]], identity: ClassIdentity = "names") -> LabelSpace:
    """Decide which outputs are the same class.

    Args:
        members: Name and labels of every member.
        identity: `names` (equal labels are one class, except placeholders), `distinct` (no two members share a class),
            or a mapping member name -> label -> class name; labels that it leaves out are treated as by `names`.

    Raises:
        ConfigError: If `identity` is none of these, or two outputs of one member become one class.
    """
    if isinstance(identity, str) and identity not in ("names", "distinct"):
        raise ConfigError(f"class identity must be 'names', 'distinct' or a mapping, but is {identity!r}")
    index: dict[str, int] = {}
    of_member: list[tuple[int, ...]] = []
    for member, labels in members:
        mapping = {} if isinstance(identity, str) else identity.get(member, {})
        names = [mapping.get(label, _class_name(member, label, distinct=identity == "distinct")) for label in labels]
        if len(set(names)) != len(names):
            raise ConfigError(f"class identity: two outputs of {member} become the same class ({', '.join(names)})")
        of_member.append(tuple(index.setdefault(name, len(index)) for name in names))
    return LabelSpace(tuple(index), tuple(of_member))


def _class_name(member: str, label: str, *, distinct: bool) -> str:
    return f"{member}/{label}" if distinct or is_placeholder(label) else label


def is_placeholder(label: str) -> bool:
    """Whether a label only numbers an output (`0`, `class_3`, `LABEL_0`), so that it identifies no class."""
    return _PLACEHOLDER.fullmatch(label.strip()) is not None


def read_identity(argument: str) -> str | dict[str, dict[str, str]]:
    """Read a class identity from a command-line argument.

    Args:
        argument: `names`, `distinct`, or the path of a YAML file: member name -> label -> class name.

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    if argument in ("names", "distinct"):
        return argument
    try:
        mapping = yaml.safe_load(Path(argument).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"class identity: expected 'names', 'distinct' or a YAML file, found {argument!r} ({error})"
        ) from error
    if isinstance(mapping, str):
        raise ConfigError(f"class identity: {argument} must map member names to mappings from label to class name")
    return check_identity(mapping, argument)


def check_identity(found: object, where: str) -> str | dict[str, dict[str, str]]:
    """Check a class identity that was read from a file.

    Args:
        found: Values as YAML or JSON returns them: `names`, `distinct`, or member name -> label -> class name.
        where: Name of the file, for the error message.

    Raises:
        ConfigError: If it is something else.
    """
    if isinstance(found, str) and found in ("names", "distinct"):
        return found
    if not isinstance(found, dict) or not all(isinstance(labels, dict) for labels in found.values()):
        raise ConfigError(f"class identity: {where} must map member names to mappings from label to class name")
    return {str(m): {str(label): str(name) for label, name in labels.items()} for m, labels in found.items()}
