"""Check a built site: every local link has a target, and nothing is loaded from another host.

Sphinx checks the links of the pages' sources; this checks what it has written, including pictures, style sheets and
scripts of the theme. Usage: python docs/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
_STYLE = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])(?:https?:)?//")


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect anchors and links."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.names.add(value)
            elif name in ("href", "src", "data") and value:
                self.links.append((tag, value))


@cache
def _read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def problems(site: Path) -> list[str]:
    """What is wrong with a site, one line each.

    Args:
        site: Folder with the built pages.
    """
    found = []
    for path in sorted(site.rglob("*.html")):
        for tag, link in _read(path).links:
            parts = urlsplit(link)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if tag in _LOADED:
                    found.append(f"{path.relative_to(site)}: loads {link} from another host")
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists():
                found.append(f"{path.relative_to(site)}: {link} leads nowhere")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).names:
                found.append(f"{path.relative_to(site)}: {link} has no such heading")
    for path in sorted(site.rglob("*.css")):
        if _STYLE.search(path.read_text(encoding="utf-8", errors="replace")):
            found.append(f"{path.relative_to(site)}: loads something from another host")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]).resolve())
    print("\n".join(lines) or "the site is whole: every local link has a target, and nothing is loaded from elsewhere")
    sys.exit(bool(lines))
