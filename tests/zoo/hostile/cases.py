"""What a hostile case is: a function that puts something hostile into a zoo, and what dfml must say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CANARY = "canary"
"""Name of a file beside the zoo that code of a hostile file would make."""

ANYTHING = r"\w"
"""What is said of a file that is refused for one reason or another."""

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One hostile file, folder or manifest.

    Attributes:
        name: Name of the case, and of its folder.
        write: Puts it into a zoo's folder, in which the member `good` is; everything hostile is called `bad...`.
        says: Regular expression that is found in what dfml says of it; empty if it is harmless and read as it is.
        needs: Module without which the case is skipped.
        whole_zoo: Whether no member can be read, because `zoo.yaml` itself cannot be.
        slow: Whether it takes more than about two seconds.
    """

    name: str
    write: Writer
    says: str
    needs: str | None = None
    whole_zoo: bool = False
    slow: bool = False


class Cases:
    """The cases of one group of formats, in the order in which they are written."""

    def __init__(self, needs: str | None = None) -> None:
        self.cases: list[Case] = []
        self._needs = needs

    def __call__(self, says: str, *, whole_zoo: bool = False, slow: bool = False) -> Callable[[Writer], Writer]:
        """Decorator: the function is a case, named by its own name."""

        def add(write: Writer) -> Writer:
            self.cases.append(Case(write.__name__, write, says, self._needs, whole_zoo, slow))
            return write

        return add

    def add(self, name: str, write: Writer, says: str) -> None:
        """Add a case whose function has no name of its own."""
        self.cases.append(Case(name, write, says, self._needs))


def canary(zoo: Path) -> str:
    """Path of the file that code of a case would make."""
    return str(zoo.parent / CANARY)
