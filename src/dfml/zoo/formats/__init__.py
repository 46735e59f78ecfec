"""Formats of zoo members: what a format is, and how the format of a file or folder is found.

dfml's own formats are the modules of this package; each has one instance of its format, `FORMAT`. A format of another
package is registered in Python (`register_format`) or declared by an entry point in the group `dfml.formats`
(name -> `module:instance`).
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from dfml.errors import DfmlError, UsageError, ZooError, ZooMemberError
from dfml.registries import describe_entry_point, load_entry_point
from dfml.zoo.hub import is_hub_id, member_name
from dfml.zoo.manifest import ManifestMember
from dfml.zoo.members import Predicts
from dfml.zoo.pretrained import Preprocessing

GROUP = "dfml.formats"
"""Entry-point group by which installed packages declare formats."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a member's folder as timm and transformers write it."""

_DEFAULT = "timm"  # the format whose error explains a folder with CONFIG or WEIGHTS that no format recognises


@dataclass(frozen=True)
class MemberConfig:
    """Configuration of a zoo member, read without its weights.

    Two members whose `format`, `architecture` and `arguments` are equal have the same network up to its weights.

    Attributes:
        path: The member's folder or file; or `hf:OWNER/NAME@COMMIT`, of a member on the Hugging Face Hub.
        format: Name of the format that read it.
        architecture: Name of the architecture; for timm's format a name in its registry.
        labels: One name per output, distinct.
        preprocessing: Size, mean and standard deviation of the network's input.
        arguments: Arguments of the architecture, such as `img_size`.
        details: Further notes on the member, such as `held_out_accuracy`, a fraction.
        weights: The file that holds the weights, or the index of several; None if that is `path` itself.
        shards: The files that hold the weights, where there are several; else empty.
        entry: The member's entry in `zoo.yaml`; None for a member that describes itself.
        network: `FILE.py:CLASS` of the owner's network, where the user named it when the zoo was opened.
    """

    path: Path
    format: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    shards: tuple[Path, ...] = ()
    entry: ManifestMember | None = None
    network: str | None = None

    @property
    def name(self) -> str:
        """Name of the member's folder or file, its name in `zoo.yaml`, or `OWNER--NAME` of a member on the Hub."""
        if self.entry:
            return self.entry.member_name
        return member_name(self.path) if is_hub_id(self.path) else self.path.name

    @property
    def network_key(self) -> str:
        """Text that is the same for members that have the same network up to its weights."""
        key = f"{self.format} {self.architecture} {sorted(self.arguments.items())}"
        if self.entry:
            adapted = (self.entry.output, self.entry.input_size, self.entry.channels, self.entry.layout, self.network)
            key += f" {adapted}"
        return key

    @property
    def weight_file(self) -> Path:
        """The file that holds the weights."""
        return self.weights or self.path


@runtime_checkable
class MemberFormat(Protocol):
    """A way in which classifiers are stored. `dfml.zoo.vetting` calls a format and checks what it returns.

    A format must not execute anything that a member's files contain: pickles only by `torch.load(weights_only=True)`.
    If `load` may return a member that only predicts, the format has an attribute `may_only_predict = True`.
    """

    name: str
    """Name of the format, distinct from those of all other formats."""

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder is a member in this format. Must be quick, and must not raise."""
        ...

    def read_config(self, path: Path) -> MemberConfig:
        """Read a member's configuration without its weights.

        Raises:
            ZooMemberError: If the configuration is missing, contradictory or out of bounds.
        """
        ...

    def load(self, config: MemberConfig) -> nn.Module | Predicts:
        """Return the member's network on the CPU, with all of its weights: normalised images to logits.

        For a classifier without gradients, such as a service, return a member instead: a `dfml.zoo.Predicts`.

        Raises:
            ZooMemberError: If the weights are missing, damaged, or not exactly those of the architecture.
        """
        ...


_registered: dict[str, MemberFormat] = {}


def register_format(member_format: MemberFormat) -> None:
    """Add a format for the rest of the process. Registered formats are tried before dfml's own.

    Raises:
        UsageError: If it is no instance of a `MemberFormat`, or another format has the same name.
    """
    _check(member_format, "register_format", UsageError)
    name = member_format.name
    if name in _built_in() or _registered.get(name, member_format) is not member_format:
        raise UsageError(f"there is already a format {name!r}; give the new one another name")
    _registered[name] = member_format


def find_format(path: Path, *, declared: bool = True) -> MemberFormat | None:
    """The first format that recognises a file or folder; None if no format does.

    Args:
        path: A file or folder.
        declared: Whether to also try, last, the formats that installed packages declare, which imports them.

    Raises:
        ZooError: If a declared format is needed for the decision and cannot be imported.
    """
    known = (*_registered.values(), *map(_import_built_in, _built_in()))
    found = next((candidate for candidate in known if candidate.recognises(path)), None)
    if found is None and declared:
        found = next((candidate for candidate in _declared() if candidate.recognises(path)), None)
    return found


def has_member_files(path: Path) -> bool:
    """Whether a folder holds `config.json` or `model.safetensors`, and so is meant to be a member."""
    return (path / CONFIG).is_file() or (path / WEIGHTS).is_file()


def format_of(path: Path) -> MemberFormat:
    """The format of a member.

    Raises:
        ZooMemberError: If no format recognises it, and it does not look like a damaged member of timm's format either.
        ZooError: If a declared format cannot be imported.
    """
    found = find_format(path)
    if found is None and (path.is_file() or not has_member_files(path)):
        raise ZooMemberError(
            path, "no known format recognises it", f"expected a folder with {CONFIG} and {WEIGHTS}, as timm writes it"
        )
    return found or _import_built_in(_DEFAULT)


def format_named(name: str) -> MemberFormat:
    """The format of a given name.

    Raises:
        ZooError: If there is no such format, or it cannot be imported.
    """
    if name in _registered:
        return _registered[name]
    if name in _built_in():
        return _import_built_in(name)
    found = next(_declared(name), None)
    if found is None:
        known = ", ".join(sorted({*_registered, *_built_in(), *_entry_points(tuple(sys.path)).names}))
        raise ZooError(f"there is no format {name!r} of zoo members; known are {known}")
    return found


@cache
def _built_in() -> tuple[str, ...]:
    """Names of the modules of this package; nothing is imported."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def _import_built_in(name: str) -> MemberFormat:
    found: MemberFormat = import_module(f"{__name__}.{name}").FORMAT
    return found


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> EntryPoints:
    """Entry points of the packages on a path (`sys.path`); a search takes 14 ms, too much for each of many members."""
    return entry_points(group=GROUP)


def _declared(name: str | None = None) -> Iterator[MemberFormat]:
    """Yield the formats that installed packages declare; each is imported when it is reached."""
    declared = _entry_points(tuple(sys.path))
    for point in declared if name is None else declared.select(name=name):
        found = load_entry_point("format", [point], ZooError)
        origin = f"the format {point.name!r} of {describe_entry_point(point)}"
        _check(found, origin, ZooError)
        assert isinstance(found, MemberFormat)
        if found.name != point.name or found.name in _built_in():
            raise ZooError(f"{origin} needs that name, and one that dfml's own formats do not have: {found.name!r}")
        yield found


def _check(found: object, origin: str, kind: type[DfmlError]) -> None:
    if isinstance(found, type) or not isinstance(found, MemberFormat):
        raise kind(
            f"{origin}: expected an instance with name, recognises, read_config and load, found {found!r}; "
            "see dfml.zoo.formats.MemberFormat"
        )
