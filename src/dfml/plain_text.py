"""Other people's text, such as labels, made harmless for terminals and pages."""

from __future__ import annotations

import re

# Control characters but tabs and newlines, marks that change the direction of text, unusual ends of lines, and the
# halves of characters that stand for undecodable bytes of a file's name.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_text(text: str) -> str:
    r"""Text whose control characters and marks of direction are written out: `\x1b` for an escape character.

    Without this, a label could clear a terminal, set its title, or show a line in another order than it has.

    Args:
        text: Any text; tabs and newlines stay.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
