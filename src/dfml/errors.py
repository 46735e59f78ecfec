"""Errors that a user can cause and fix. Their message is one line: what was expected, what was found, what to do.

The command line prints that line and exits with the error's exit code; in Python, catch `DfmlError` or a subclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MOST_SHOWN = 50  # members in one message


class DfmlError(Exception):
    """Base class of all errors that a user can cause and fix.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code = 1


class UsageError(DfmlError):
    """A request that no data can meet, such as an unknown option or a way above the number of classes."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown setting, or a setting with a wrong value."""


class ZooError(DfmlError):
    """A zoo that cannot be used: it is missing or empty, or its members do not fit together."""


class ZooMemberError(ZooError):
    """A member of a zoo that cannot be used.

    Args:
        path: Folder of the member.
        reason: What was expected and what was found.
        fix: What the user can do about it.
    """

    def __init__(self, path: Path, reason: str, fix: str) -> None:
        super().__init__(f"zoo member {path}: {reason}; {fix}")
        self.path = path
        self.reason = reason
        self.fix = fix

    def __reduce__(self) -> tuple[type[ZooMemberError], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self.fix)


class ZooMembersError(ZooError):
    """Several members of a zoo that cannot be used.

    Args:
        problems: One error per bad member, at least two; the message has the first 50.
        members: Number of members of the zoo.
    """

    def __init__(self, problems: Sequence[ZooMemberError], members: int) -> None:
        self.problems = tuple(problems)
        self.members = members
        more = len(self.problems) - _MOST_SHOWN
        shown = [*map(str, self.problems[:_MOST_SHOWN]), *([f"and {more} more: dfml zoo inspect"] if more > 0 else [])]
        super().__init__(f"{self.summary}: {' | '.join(shown)}")

    @property
    def summary(self) -> str:
        """How many members cannot be used, without the reasons."""
        return f"{len(self.problems)} of {self.members} zoo members cannot be used"

    def __reduce__(self) -> tuple[type[ZooMembersError], tuple[tuple[ZooMemberError, ...], int]]:
        return type(self), (self.problems, self.members)


class QueryLimitError(ZooError):
    """A zoo member may not be queried with as many further images as were asked for."""


class DataError(DfmlError):
    """Labelled images that cannot be read, or too few of them for the request."""


class RunError(DfmlError):
    """A run that failed, or whose folder cannot be written, read or resumed."""


class ProtocolError(UsageError):
    """A learner that was trained for another evaluation protocol than the requested one."""


class LearnerError(DfmlError):
    """A saved learner or classifier that cannot be loaded, or a learner that cannot adapt to a support set."""
