"""Configuration of the documentation site, which `sphinx-build -W docs build/site` builds.

The pages are Markdown that also reads well in the repository: links go to files of the repository. While the site is
built, links to files outside of this folder are turned into links to the pages that show these files.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.ext.napoleon import Config, GoogleDocstring

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

project = "dfml"
release = installed_version("dfml")
version = release
project_copyright = "the authors of dfml, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
smartquotes = False  # would turn --option into a dash
default_role = "code"  # in docstrings, single backticks mark code
html_theme = "furo"
html_title = f"dfml {release}"
html_show_sphinx = False
html_copy_source = False
templates_path: list[str] = []

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"  # and what is returned
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__init__, model_config"}

# Files of the repository outside of this folder, and the pages that show them.
FILES = {
    "README.md": "index.md",
    "SECURITY.md": "explanation/security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
}
_FILE = re.compile(r"^<!-- file: (\S+) -->$", re.MULTILINE)
_COMMANDS = "<!-- commands -->"
_LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def _relative_links(text: str, folder: Path, page: Path) -> str:
    """Change the links of a text in `folder` to those of the same text on `page`."""

    def change(link: re.Match[str]) -> str:
        target, anchor = (folder / link[1]).resolve(), link[2] or ""
        if not target.exists() or not target.is_relative_to(ROOT):
            return link[0]  # Sphinx says that it is broken
        shown = FILES.get(str(target.relative_to(ROOT)))
        target = DOCS / shown if shown else target
        return f"]({Path(os.path.relpath(target, page.parent)).as_posix()}{anchor})"

    return _LINK.sub(change, text)


def _read_page(app: Any, document: str, content: list[str]) -> None:
    """Insert files of the repository and the table of commands, and adapt links."""
    page = Path(app.env.doc2path(document))
    text = _relative_links(content[0], page.parent, page)
    for name in _FILE.findall(text):
        shown = _relative_links((ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent, page)
        text = text.replace(f"<!-- file: {name} -->", shown)
    if _COMMANDS in text:
        text = text.replace(_COMMANDS, _commands())
    content[0] = text


def _commands() -> str:
    """All subcommands with their options, as Markdown."""
    import typer

    from dfml.cli import app

    sections: list[str] = []

    def visit(command: Any, name: str) -> None:
        for below in getattr(command, "commands", {}):
            visit(command.commands[below], f"{name} {below}")
        if not hasattr(command, "commands"):
            arguments = [each for each in command.params if each.param_type_name == "argument"]
            usage = " ".join([name, *(each.metavar or each.name.upper() for each in arguments), "[OPTIONS]"])
            rows = "\n".join(
                f"| {_cell(_option(each))} | {_cell(each.help or '')}{_default(each)} |"
                for each in command.params
                if each.name != "help"
            )
            text = "\n".join(line.strip() for line in (command.help or "").splitlines())
            sections.append(f"## {name}\n\n```\n{usage}\n```\n\n{text}\n\n| option | meaning |\n|---|---|\n{rows}\n")

    visit(typer.main.get_command(app), "dfml")
    return "\n".join(sections)


def _option(parameter: Any) -> str:
    names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
    value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or parameter.type.name.upper()
    return f"`{' '.join(filter(None, (names, value)))}`"


def _default(parameter: Any) -> str:
    if parameter.required:
        return " Required."
    known = parameter.default not in (None, False, "", ()) and "efault" not in (parameter.help or "")
    return f" Default: {parameter.default}." if known and not callable(parameter.default) else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _read_docstring(app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Convert Google's sections to those of Sphinx, except below attributes, whose text before a colon is no type."""
    if what not in ("attribute", "data", "property"):
        config = Config(napoleon_use_ivar=True)
        lines[:] = GoogleDocstring(lines, config, app, what, name, documented, options).lines()


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("source-read", _read_page)
