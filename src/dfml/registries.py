"""`Registry`: named parts of one kind, dfml's own and those of other packages, imported when they are used."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dfml.errors import DfmlError, UsageError

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Parts by name: dfml's own, those registered in Python, and those that installed packages declare.

    Args:
        kind: Word for one part in messages, such as "engine".
        group: Entry-point group in which packages declare parts (name -> `module:object`), such as `dfml.engines`.
        own: dfml's own parts; they cannot be replaced.
        accepts: (name, object) -> whether what a package declares under a name is such a part.
        expected: Description of such a part, for the message where `accepts` says no.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, Part],
        *,
        accepts: Callable[[str, Any], bool] = lambda name, part: True,
        expected: str = "",
    ) -> None:
        self._kind, self._group = kind, group
        self._accepts, self._expected = accepts, expected
        self._own, self._registered = dict(own), dict[str, Part]()

    def register(self, name: str, part: Part) -> None:
        """Make a part available under a name in this process; the last one registered under a name counts.

        Raises:
            UsageError: If the name belongs to one of dfml's own parts.
        """
        if name in self._own:
            raise UsageError(f"the {self._kind} {name!r} is one of dfml's own; register yours under another name")
        self._registered[name] = part

    def names(self) -> tuple[str, ...]:
        """All names, dfml's own first; nothing is imported."""
        declared = sorted(entry_points(group=self._group).names)
        return tuple(dict.fromkeys([*self._own, *self._registered, *declared]))

    def find(self, name: str) -> Part:
        """The part of a name; one that a package declares is imported now.

        Raises:
            UsageError: If there is none, several packages declare different ones, its module fails, or the object is
                no such part.
        """
        for parts in (self._own, self._registered):
            if name in parts:
                return parts[name]
        points = [point for point in entry_points(group=self._group) if point.name == name]
        if not points:
            names = ", ".join(self.names())
            advice = (
                f"choose one of {names}" if names else f"no package declares one as an entry point of {self._group}"
            )
            raise UsageError(f"unknown {self._kind} {name!r}; {advice}")
        part = load_entry_point(self._kind, points)
        if not self._accepts(name, part):
            raise UsageError(
                f"{describe_entry_point(points[0])} is declared as the {self._kind} {name!r}: expected "
                f"{self._expected}, found {part!r}"
            )
        return cast("Part", part)


def load_entry_point(kind: str, points: Sequence[EntryPoint], error: type[DfmlError] = UsageError) -> object:
    """Import what packages declare under one name.

    Args:
        kind: Word for the part in messages.
        points: Entry points of one group and one name; at least one.
        error: Class of the error.

    Raises:
        DfmlError: Of the class `error`, if they differ, or the module fails; names the file and line.
    """
    name = points[0].name
    if len({point.value for point in points}) > 1:
        packages = ", ".join(map(describe_entry_point, points))
        raise error(f"several packages declare a {kind} {name!r}: {packages}; uninstall all but one")
    try:
        return points[0].load()
    except (Exception, SystemExit) as caught:
        raise error(
            f"the {kind} {name!r} of {describe_entry_point(points[0])} cannot be imported: {error_place(caught)}"
        ) from caught


def describe_entry_point(point: EntryPoint) -> str:
    """The object that an entry point names and the package that declares it."""
    return f"{point.value} (package {point.dist.name if point.dist else 'unknown'})"


def error_place(error: BaseException) -> str:
    """File, line and message of an error: the last line outside of dfml and installed packages that took part in it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    folders = [str(Path(__file__).parent), *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib"))]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(folders))]
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}"
