"""What can go wrong for a user, each with one line that says what was expected, what was found and what to do.

The command line turns a `DfmlError` into that one line and an exit code; Python users can catch the class they care
about.
"""

from __future__ import annotations

from pathlib import Path


class DfmlError(Exception):
    """Base of all errors that a user can cause and mend. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(DfmlError):
    """The request itself cannot be met (an unknown option, a way larger than the number of classes)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration names an unknown field or holds a value of the wrong kind."""


class ZooError(DfmlError):
    """A zoo as a whole cannot be used: it is missing, empty, or its members do not fit together."""


class ZooMemberError(ZooError):
    """One member of a zoo cannot be used.

    Args:
        path: The member's folder.
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


class QueryLimitError(ZooError):
    """A zoo member may not be queried with as many further images as were asked for."""


class DataError(DfmlError):
    """Labelled images cannot be read, or do not hold enough for what was asked."""


class RunError(DfmlError):
    """A run's folder cannot be written, or cannot be resumed as asked."""


class ProtocolError(UsageError):
    """A learner was trained for another evaluation protocol than the one asked for."""


class LearnerError(DfmlError):
    """A saved learner or classifier cannot be loaded, or cannot adapt to the support set that it was given."""
