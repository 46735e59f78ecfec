"""`Registry`: inversion engines, loss terms or class splits by name, dfml's own and those of other packages.

What an installed package declares as an entry point is imported when `find` is called with its name. The registries are
`dfml.inversion.registry.ENGINES`, `_EXTRA` in `dfml.inversion.terms` (without dfml's own terms) and `_SPLITS` in
`dfml.data.splits`; users add parts by `register_engine`, `register_loss_term` and `register_split` in these modules.
Methods and formats of zoo members have no `Registry`, but load their entry points by the functions of this module.
"""

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
        accepts: Check of what an entry point names: (name, object) -> whether the object is such a part. Default:
            anything is accepted. Parts in `own` and those of `register` are not checked.
        expected: What `accepts` requires, for the error message; such as "an object with a method `classes`".
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
        """Make a part available under a name in this process.

        It replaces an earlier one that was registered under the name, and hides one that an installed package declares.

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
        """Look up a part: first among dfml's own, then among the registered ones, last among the entry points.

        Args:
            name: Name of the part. A part that a package declares is imported by this call.

        Raises:
            UsageError: If no part has the name, several packages declare different objects under it, the module of the
                object cannot be imported, or `accepts` rejects the object.
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
        DfmlError: Of the class `error`, if the entry points name different objects, or the module cannot be imported;
            in the second case the message has the file and line of the failure.
    """
    name = points[0].name
    if len({point.value for point in points}) > 1:
        packages = ", ".join(map(describe_entry_point, points))
        raise error(f"several packages declare a {kind} {name!r}: {packages}; uninstall all but one")
    try:
        return points[0].load()
    except (Exception, SystemExit) as caught:  # a module that calls `sys.exit` would end dfml without a message
        raise error(
            f"the {kind} {name!r} of {describe_entry_point(points[0])} cannot be imported: {error_place(caught)}"
        ) from caught


def describe_entry_point(point: EntryPoint) -> str:
    """The object that an entry point names and the package that declares it."""
    return f"{point.value} (package {point.dist.name if point.dist else 'unknown'})"


def error_place(error: BaseException) -> str:
    """File, line and message of an error.

    The line is the innermost one of the traceback that is neither in dfml nor in an installed package nor in Python's
    library, since that is the user's own; if there is none, the innermost of all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    # Python's import system appears in tracebacks as files such as "<frozen importlib._bootstrap>".
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    folders = [str(Path(__file__).parent), *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib"))]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(folders))]
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}"
